"""The data of a run: what it learns from, and what it is judged by."""

from pathlib import Path

from kdlib.data import load_data
from kdlib.data.image_data import ImageData
from kdlib.runs import RunConfig


def training_data(config: RunConfig, data_root: Path | None) -> ImageData:
    """The training set; of a run that is to choose something, without its dev split.

    Raises:
        KdlibError: data are missing or damaged.
    """
    return _loaded(config, "train" if config.split == "train" else "fit", data_root)


def evaluation_data(config: RunConfig, data_root: Path | None) -> ImageData:
    """The test set; of a run that is to choose something, the dev split.

    Raises:
        KdlibError: data are missing or damaged.
    """
    return _loaded(config, "test" if config.split == "train" else "dev", data_root)


def _loaded(config: RunConfig, split: str, data_root: Path | None) -> ImageData:
    return load_data(
        config.dataset,
        split,
        size=config.test_size if split == "test" else config.train_size,
        task=config.task,
        image_size=config.image_size,
        attentions=config.attentions,
        distractors=config.distractors,
        crop_size=config.crop_size,
        data_root=data_root,
    )
