"""What the scenes of garments consist of: an outfit is four garments, each in its colour."""

OUTFITS: dict[str, dict[str, str]] = {
    "beach": {"T-shirt/top": "green", "Sandal": "red", "Dress": "yellow", "Bag": "blue"},
    "office": {"Shirt": "yellow", "Trouser": "blue", "Coat": "red", "Ankle boot": "purple"},
    "gym": {"T-shirt/top": "red", "Trouser": "green", "Sneaker": "purple", "Pullover": "yellow"},
    "winter walk": {"Coat": "blue", "Pullover": "green", "Ankle boot": "yellow", "Bag": "purple"},
    "party": {"Dress": "blue", "Sandal": "green", "Shirt": "purple", "Bag": "yellow"},
    "school": {"Shirt": "blue", "Pullover": "purple", "Sneaker": "green", "Trouser": "red"},
    "journey": {"T-shirt/top": "purple", "Coat": "yellow", "Sneaker": "red", "Bag": "green"},
    "garden": {"T-shirt/top": "blue", "Trouser": "yellow", "Sandal": "purple", "Shirt": "red"},
    "city": {"Dress": "red", "Coat": "green", "Ankle boot": "blue", "Sneaker": "yellow"},
    "concert": {"Dress": "purple", "Pullover": "red", "Sandal": "blue", "Ankle boot": "green"},
}
"""Scene class -> its garments -> their colours.

Ten kinds of garment alone cannot make multi-attention scenes: that two of its garments name a
class, two classes may share one garment at most, and of four garments out of ten there are only
five such classes (the packing number D(10, 4, 2)); beside two garments of a class, a single other
garment could then be shown without naming a second class. In five colours the ten kinds are fifty
objects. The ten outfits use forty of them, each once, so that they obey the quorum rule with any
number of attentions from 1 to 4; the other ten belong to no class and are the distractors where
one object decides. Nothing cheaper than a garment *in* its colour tells a class: every garment is
in four outfits, in four colours, and in the fifth colour in none; every colour is in eight
outfits, and in none for two of the garments; an outfit has no garment and no colour twice.
"""

COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (1.00, 0.25, 0.20),
    "yellow": (1.00, 0.90, 0.20),
    "green": (0.25, 0.85, 0.30),
    "blue": (0.25, 0.45, 1.00),
    "purple": (0.90, 0.35, 0.95),
}
"""What a white garment turns into: factors of red, green and blue."""
