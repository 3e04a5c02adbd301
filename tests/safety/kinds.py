"""What is made again: one small run of every kind, one network of every name, all kinds of data.

The names are written down, not read from the registries: one that is lost must be noticed.
"""

from typing import Any

Fields = dict[str, Any]
SMALL: Fields = {
    "teacher": "scenes_student", "student": "scenes_tiny", "train_size": 192, "test_size": 96,
    "image_size": 64, "batch_size": 64, "epochs": 2, "teacher_epochs": 1,
}  # fmt: skip
SRM: Fields = {
    "sparsity": 0.2, "dictionary_epochs": 2, "dictionary_rate": 0.05,
    "dictionary_steps": [0.5], "init_share": 0.5,
}  # fmt: skip
NARROW: Fields = {"method_options": {"width": 1, "depth": 1}}

ALONE = [
    "student",
    "kd",
    "fitnet",
    "at",
    "pkt",
    "vid",
    "sp",
    "rkd",
    "crd",
    "semckd",
    "reviewkd",
    "dkd",
    "logit_std",
    "famkd",
    "dct",
    "release_a",
    "release_b",
    "ours",
    "dct_options",
    "at_equal_scale",
    "parseval_twin",
    "dct_abs",
    "dct_l1",
    "dct_low",
    "dct_high",
    "newl2",
    "frskd",
    "frskd_published",
    "frskd_logits",
    "frskd_maps",
    "frskd_detached",
    "frskd_dct",
    "frskd_pixels",
    "frskd_options",
]
MODIFIED = [
    "at+kd",
    "dct+kd",
    "dct+gate",
    "at+gate+kd",
    "dct+gate+kd",
    "fitnet+kd",
    "pkt+kd",
    "vid+kd",
    "sp+kd",
    "rkd+kd",
    "crd+kd",
    "semckd+kd",
    "reviewkd+kd",
    "famkd+kd",
    "release_a+kd",
    "newl2+gate",
    "frskd+kd",
]
HALVES = ("student", "kd", "at+kd", "dct", "crd", "reviewkd", "semckd", "frskd")
"""Methods that are made again in bfloat16 too."""
TOGETHER = ("student", "kd", "at", "dct+gate+kd", "crd", "vid+kd", "semckd", "frskd")
STOPPED = ("student", "at+kd", "crd", "frskd")

OPTIONS: dict[str, Fields] = {
    "dct_options fft": {"transform": "fft_abs", "normalise": "max_ac", "distance": "l1"},
    "dct_options before": {"normalise_when": "before", "drop_dc": False, "distance": "squared"},
    "dct_options band": {"band": ["range", 0.25, 0.75], "level_weights": "equal_scale"},
    "dct_options none": {"transform": "none", "normalise": "minmax"},
    "dct_options real": {"transform": "fft_real", "normalise": "none", "level_weights": [1, 2, 4]},
    "at levels": {"level_weights": [0, 1, 2]},
    "reviewkd middle": {"middle": 8},
    "dkd weights": {"target_weight": 2.0, "other_weight": 4.0, "temperature": 2.0},
    "frskd_options fitnet": {"feature": "fitnet", "width": 1, "temperature": 2.0},
    "frskd_options overhaul": {"feature": "overhaul", "common": 8, "repeat": 2},
    "frskd_options detached": {"feature": "dct", "detach": True, "alpha": 0.5, "beta": 3.0},
    "srm": SRM,
    "srm+kd": SRM,
    "srm_logits": SRM,
    "srm local": {**SRM, "targets": "local", "classifier": "probe", "mu": 1.0},
    "srm global": {**SRM, "targets": "global", "release": False},
}
SETTINGS: dict[str, Fields] = {
    "adam": {"method": "at", "optimiser": "adam", "learning_rate": 1e-3, "weight_decay": 1e-4},
    "steps": {"method": "kd", "schedule": "step", "milestones": [1], "momentum": 0.5},
    "constant": {"schedule": "constant", "gradient_clip": 0.5, "teacher_learning_rate": 0.05},
    "weights": {"method": "dct+kd", "weight": 2.0, "ce_weight": 0.5, "kd_weight": 0.7},
    "temperature": {"method": "kd", "temperature": 2.0},
    "seeds": {"method": "at+kd", "init_seed": 3, "data_seed": 4, "teacher_seed": 5},
    "dev": {"method": "dct", "split": "dev"},
    "diverged": {"method": "kd", "split": "dev", "kd_weight": 1e39},
    "crop": {"method": "at+gate", "augmentation": ["flip", "crop"]},
    "as it is": {"method": "at", "augmentation": [], "attentions": 4, "distractors": 1},
    "srm bfloat16": {"method": "srm", "method_options": SRM, "precision": "bfloat16"},
    **{
        f"{method} {name}": {"method": method, "augmentation": ["flip", name]}
        for name in ("mixup", "cutmix", "sla")
        for method in ("student", "frskd", "at")
    },
    "kd mixup": {"method": "kd", "augmentation": ["mixup"]},
}
PIXELS: Fields = {
    "task": "segmentation", "student": "scenes_segmenter_tiny", "teacher": "scenes_segmenter",
    "train_size": 64, "test_size": 32, "image_size": 48, "batch_size": 32,
}  # fmt: skip
CROPS: Fields = {"task": "crops", "crop_size": 16, "teacher": "scenes_student", "test_size": 48}
BOXES: Fields = {
    "task": "detection", "crop_size": 16, "train_size": 64, "test_size": 32, "batch_size": 16,
    "student": "scenes_ssd_tiny", "teacher": "scenes_tiny", "gradient_clip": 10.0,
}  # fmt: skip
RETINA: Fields = {**BOXES, "student": "scenes_retinanet_tiny", "epochs": 1}
TASKS: dict[str, Fields] = {
    **{f"pixels {m}": {**PIXELS, "method": m} for m in ("student", "kd", "at", "dct")},
    "pixels frskd_pixels": {**PIXELS, **NARROW, "method": "frskd_pixels"},
    "pixels bfloat16": {**PIXELS, **NARROW, "method": "frskd_pixels", "precision": "bfloat16"},
    "pixels crop": {**PIXELS, "augmentation": ["flip", "crop"], "epochs": 1},
    **{f"crops {m}": {**CROPS, "method": m} for m in ("student", "kd", "dct+kd", "crd")},
    **{
        f"boxes {m}": {**BOXES, "method": m}
        for m in ("student", "kd_cls", "loc", "kd_loc", "kd_cls_loc")
    },
    "boxes own crops": {**BOXES, "method": "kd_loc", "method_options": {"layers": [0, 1]}},
    **{f"retina {m}": {**RETINA, "method": m} for m in ("student", "kd_cls", "kd_loc")},
    "retina kl_ce": {**RETINA, "method": "kd_cls", "method_options": {"sigmoid": "kl_ce"}},
    "boxes bfloat16": {**BOXES, "method": "kd_cls_loc", "precision": "bfloat16"},
    **{
        f"boxes {name}": {**BOXES, "epochs": 1, "augmentation": ["flip", name]}
        for name in ("photometric", "zoom_out", "iou_crop", "scale_jitter")
    },
}
UNLIKE: Fields = {"image_size": 32, "epochs": 1, "train_size": 128}
NETWORKS: dict[str, Fields] = {
    **{
        f"{student} {method}": {
            **UNLIKE, "student": student, "teacher": teacher, "method": method,
        }
        for student, teacher, method in (
            ("resnet8", "resnet8x4", "dct+kd"), ("wrn_16_2", "resnet8", "at"),
            ("shuffle_v1", "resnet8", "reviewkd"), ("shuffle_v2", "resnet8", "semckd"),
            ("vgg8", "resnet8", "vid"), ("mobilenet_v2_cifar", "wrn_16_2", "crd"),
            ("resnet18_cifar", "resnet8", "student"), ("scenes_mobile", "resnet8", "fitnet"),
            ("resnet18", "vgg8", "dct"), ("resnet14", "none", "frskd"),
        )
    },
}  # fmt: skip
FILES: dict[str, Fields] = {
    "photographs": {"dataset": "imagefolder", "method": "at", "augmentation": ["random_crop"]},
    "garments": {"dataset": "fashion_mnist", "method": "dct", "image_size": 32},
    "fashion scenes": {"dataset": "fashion_scenes", "method": "kd", "distractors": 2},
    "coco": {**BOXES, "dataset": "coco", "method": "kd_cls", "augmentation": ["flip", "iou_crop"]},
}
RUNS: dict[str, Fields] = {
    **{method: {"method": method} for method in (*ALONE, *MODIFIED)},
    **{f"{method} bfloat16": {"method": method, "precision": "bfloat16"} for method in HALVES},
    **{name: {"method": name.split()[0], "method_options": o} for name, o in OPTIONS.items()},
    **SETTINGS, **TASKS, **NETWORKS, **FILES,
}  # fmt: skip

ANSWERING = [
    "resnet8",
    "resnet14",
    "resnet20",
    "resnet32",
    "resnet44",
    "resnet56",
    "resnet110",
    "resnet8x4",
    "resnet32x4",
    "wrn_16_2",
    "wrn_40_1",
    "wrn_40_2",
    "resnet18_cifar",
    "resnet50_cifar",
    "vgg8",
    "vgg13",
    "mobilenet_v2_cifar",
    "shuffle_v1",
    "shuffle_v2",
    "scenes_teacher",
    "scenes_student",
    "scenes_tiny",
    "scenes_mobile",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet152",
    "mobilenet_v2",
    "scenes_segmenter",
    "scenes_segmenter_tiny",
    "efficientdet_d0",
    "efficientdet_d1",
]
FINDING = [
    "ssd300_vgg16",
    "ssdlite320_mobilenet_v3_large",
    "retinanet_resnet50_fpn",
    "fasterrcnn_mobilenet_v3_large_fpn",
    "fasterrcnn_resnet50_fpn",
    "scenes_ssd",
    "scenes_ssd_tiny",
    "scenes_retinanet",
    "scenes_retinanet_tiny",
]

DATA: dict[str, Fields] = {
    "plain": {},
    "one attention": {"attentions": 1, "distractors": 6},
    "four attentions": {"attentions": 4, "distractors": 0, "image_size": 96},
    "small": {"image_size": 32, "size": 150},
    **{task: {"task": task} for task in ("segmentation", "detection", "crops")},
    "small masks": {"task": "segmentation", "image_size": 48},
    "large crops": {"task": "crops", "crop_size": 24, "attentions": 1},
}
