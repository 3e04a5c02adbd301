"""What trained networks show beyond their accuracy: measured once, kept beside their records.

Weights are not committed, so all that needs them is measured where they lie (:mod:`.measure`);
figures and notebooks read the files that it writes (:mod:`.files`).
"""

ANALYSIS_FILE = "analysis.json"
MAPS_FILE = "attention_maps.safetensors"
ANSWERS_FILE = "answers.safetensors"

# What is analysed where nothing else is asked for; ``teacher`` stands for the networks that taught.
KEY_METHODS = (
    "teacher", "student", "kd", "at", "parseval_twin", "dct", "release_a", "release_a+gate",
    "at+kd", "release_a+gate+kd",
)  # fmt: skip
