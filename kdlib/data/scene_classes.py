"""What the embedded scenes consist of: sprites by Unicode code point, classes by their objects."""

SCENE_CLASSES: dict[str, dict[str, str]] = {
    "bathroom": {"bathtub": "1f6c1", "toilet": "1f6bd", "toothbrush": "1faa5", "soap": "1f9fc"},
    "bedroom": {"bed": "1f6cf", "teddy bear": "1f9f8", "alarm clock": "23f0", "window": "1fa9f"},
    "kitchen": {"frying pan": "1f373", "knife": "1f52a", "teapot": "1fad6", "bread": "1f35e"},
    "office": {"laptop": "1f4bb", "printer": "1f5a8", "paperclip": "1f4ce", "cabinet": "1f5c4"},
    "laboratory": {"microscope": "1f52c", "test tube": "1f9ea", "alembic": "2697",
                   "petri dish": "1f9eb"},
    "music room": {"guitar": "1f3b8", "piano": "1f3b9", "violin": "1f3bb", "drum": "1f941"},
    "street": {"car": "1f697", "traffic light": "1f6a6", "bicycle": "1f6b2", "bus": "1f68c"},
    "station": {"locomotive": "1f682", "ticket": "1f3ab", "suitcase": "1f9f3",
                "alarm clock": "23f0"},
    "harbour": {"anchor": "2693", "sailing boat": "26f5", "ship": "1f6a2", "crab": "1f980"},
    "beach": {"parasol": "26f1", "shell": "1f41a", "palm": "1f334", "crab": "1f980"},
    "farm": {"cow": "1f404", "tractor": "1f69c", "chicken": "1f413", "maize": "1f33d"},
    "campsite": {"tent": "26fa", "fire": "1f525", "axe": "1fa93", "backpack": "1f392"},
    "garden": {"sunflower": "1f33b", "butterfly": "1f98b", "tulip": "1f337", "snail": "1f40c"},
    "birthday party": {"balloon": "1f388", "cake": "1f382", "gift": "1f381",
                       "teddy bear": "1f9f8"},
    "sports ground": {"football": "26bd", "trophy": "1f3c6", "basketball": "1f3c0",
                      "tennis ball": "1f3be"},
    "hospital": {"pill": "1f48a", "stethoscope": "1fa7a", "syringe": "1f489",
                 "ambulance": "1f691"},
}  # fmt: skip
"""Scene class -> its characteristic objects -> their code points. Two classes share at most one
object, so two objects of a class never say another class."""

NEUTRAL: dict[str, str] = {
    "umbrella": "2602", "crown": "1f451", "gem": "1f48e", "key": "1f511",
    "star": "2b50", "puzzle piece": "1f9e9", "lollipop": "1f36d",
}  # fmt: skip
"""Objects that belong to no class: the only distractors where one object decides a class."""


def sprites() -> dict[str, str]:
    """Every object's name and code point, each once, in the order of the atlas."""
    found = {name: code for objects in SCENE_CLASSES.values() for name, code in objects.items()}
    return found | NEUTRAL
