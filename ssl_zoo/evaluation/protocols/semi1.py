"""Fine-tuning on 1 % of the labels, SwAV's settings: a high rate for the new classifier where labels are few."""

from dataclasses import replace

from ssl_zoo.evaluation.protocols import finetune


__all__ = ["PROTOCOL"]

PROTOCOL = replace(
    finetune.PROTOCOL, settings=finetune.FinetuneSettings(share=0.01, learning_rate=0.02, head_learning_rate=5.0)
)
