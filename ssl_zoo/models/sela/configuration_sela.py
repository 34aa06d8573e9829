"""Configuration of SeLa."""

from typing import ClassVar, Literal

from huggingface_hub.dataclasses import strict

from ssl_zoo.models.configuration_base import SSLConfig


__all__ = ["SelaConfig"]


@strict
class SelaConfig(SSLConfig):
    """SeLa: self-labelling by simultaneous clustering and representation learning (https://huggingface.co/papers/1911.05371).

    The defaults are the paper's for ImageNet. Labels are solved for at `num_solves` moments of the training,
    (epochs + `solve_margin_epochs`) x share epochs from its start, with shares from 0 to 1. The first solve comes
    before the first step; moments beyond the end are never reached. At most one solve happens before a step.

    Args:
        num_clusters (`int`): clusters K of each head. The authors: 3000 on ImageNet, 128 on CIFAR and SVHN.
        num_heads (`int`): independent clusterings H.
        strength (`float`): exponent lambda of the probabilities in a solve. The authors: 25 on ImageNet, 10 on CIFAR.
        tolerance (`float`): where a solve stops, see `sinkhorn_solve`. The authors: 0.1 on ImageNet, 0.01 on CIFAR.
        max_iters (`int`): iterations after which a solve gives up with a warning.
        num_solves (`int`): moments T (the authors' nopts). Each costs a pass over the data without gradients.
        solve_spacing (`str`): `quadratic` = shares (i / (T - 1))^2, dense at the start (the authors on ImageNet), or
            `linear` = i / (T - 1) (the authors on CIFAR).
        solve_margin_epochs (`float`): see above. The authors: 1.01 on ImageNet, 1.0001 on CIFAR.
        solve_heads (`str`): `all` heads at each moment (the authors on ImageNet), or `round_robin`, one after the
            other (the authors on CIFAR: the head of the epoch's number).
        solve_storage (`str`): where a solve keeps features and scores: `memory` (the host's) or `disk`.
        solve_folder (`str`): with `disk`, the folder for temporary files; the system's when left out.
        solve_dtype (`str`): precision of what is kept, `float32` or `float16`; the sums are float64 in any case.
        solve_kernel_gib (`float`): exponentials of a head's scores are kept on the device when a process's take no
            more than this many GiB; otherwise they are recomputed in each iteration.
        label_seed (`int`): seed of the balanced random labels before the first solve, and of dropout in the passes.
        num_samples (`int`): images in the label table; filled in from the training data.
    """

    model_type = "sela"

    num_clusters: int = 3000
    num_heads: int = 10
    strength: float | int = 25.0
    tolerance: float | int = 0.1
    max_iters: int = 5000
    num_solves: int = 100
    solve_spacing: Literal["quadratic", "linear"] = "quadratic"
    solve_margin_epochs: float | int = 1.01
    solve_heads: Literal["all", "round_robin"] = "all"
    solve_storage: Literal["memory", "disk"] = "memory"
    solve_folder: str | None = None
    solve_dtype: Literal["float32", "float16"] = "float32"
    solve_kernel_gib: float | int = 1.0
    label_seed: int = 0
    num_samples: int | None = None

    _ranges: ClassVar = {
        "at least 1": ("num_clusters", "num_heads", "max_iters", "num_solves", "num_samples"),
        "> 0": ("strength", "tolerance"),
        ">= 0": ("solve_margin_epochs", "solve_kernel_gib", "label_seed"),
    }

    def fit_to_data(self, *, num_samples: int, num_classes: int | None, num_labelled: int | None) -> None:
        """Give the label table a column for each image.

        Raises:
            ValueError: if the configuration has a number of images that isn't the data's.
        """
        if self.num_samples not in (None, num_samples):
            raise ValueError(
                f"`num_samples` is {self.num_samples}, but the training data has {num_samples} images: the labels of "
                f"a table belong to the images they were found for. Leave it null"
            )
        self.num_samples = num_samples
