"""The data that a run was evaluated on."""

from pathlib import Path

from kdlib.data import load_data
from kdlib.data.image_data import ImageData
from kdlib.runs import RunConfig


def evaluation_data(config: RunConfig, data_root: Path | None) -> ImageData:
    """The test set; of a run that was to choose something, the dev split.

    Raises:
        KdlibError: data are missing or damaged.
    """
    tested = config.split == "train"
    return load_data(
        config.dataset,
        "test" if tested else "dev",
        size=config.test_size if tested else config.train_size,
        task=config.task,
        image_size=config.image_size,
        attentions=config.attentions,
        distractors=config.distractors,
        crop_size=config.crop_size,
        data_root=data_root,
    )
