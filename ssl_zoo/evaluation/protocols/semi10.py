"""Fine-tuning on 10 % of the labels, SwAV's settings."""

from dataclasses import replace

from ssl_zoo.evaluation.protocols import finetune


__all__ = ["PROTOCOL"]

PROTOCOL = replace(
    finetune.PROTOCOL, settings=finetune.FinetuneSettings(share=0.1, learning_rate=0.01, head_learning_rate=0.2)
)
