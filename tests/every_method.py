"""One small instance of every method that works on all of the tests' shared models; BitFit needs biases."""

from peft_lessons.methods import (
    FAR,
    IA3,
    AttentionTuning,
    Compacter,
    DiffPruning,
    FullFineTuning,
    Head,
    Houlsby,
    IntrinsicDimension,
    KronA,
    LadderSideTuning,
    LoRA,
    NormTuning,
    ParallelAdapter,
    Pfeiffer,
    PHMAdapter,
    SparseUpdate,
    TopLayers,
)

METHODS = [
    LoRA(r=3, alpha=5),
    LoRA(r=3, alpha=5, target_modules="all-linear", use_rslora=True),
    FullFineTuning(),
    Head(),
    AttentionTuning(),
    DiffPruning(alpha_rate=1),
    FAR(share=0.2),
    NormTuning(),
    SparseUpdate(keep=0.1),
    TopLayers(k=1),
    Compacter(reduction=2),
    IntrinsicDimension(d=5),
    KronA(scale=1.5, target_modules="all-linear"),
    PHMAdapter(n=2, reduction=4),
    LadderSideTuning(reduction=4),
    IA3(target_modules=r".*\.(key|value|[kv]_proj|c_attn)"),  # a GPT-2 makes queries, keys and values at once
    Houlsby(bottleneck=3),
    Pfeiffer(bottleneck=3, drop_layers=1),
    ParallelAdapter(bottleneck=3, scaling=4.0, learned_scaling=True),
]
