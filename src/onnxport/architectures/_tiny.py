"""Configurations shared by tiny models of several families: a small ResNet as the backbone."""

from __future__ import annotations

BACKBONE = {
    "model_type": "resnet",
    "embedding_size": 8,
    "hidden_sizes": [8, 16, 16, 32],
    "depths": [1, 1, 1, 1],
    "out_features": ["stage1", "stage2", "stage3", "stage4"],
}
THREE_STAGES = {**BACKBONE, "out_features": ["stage2", "stage3", "stage4"]}
