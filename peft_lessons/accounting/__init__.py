"""What fine-tuning costs, counted: parameters, memory, rank, and operations.

parameters   trainable, changed, rank of an attached method
inference    operations and cache of an answer
spectrum, budgets, updates       singular values; methods at one budget; the size of a step

trace        live bytes over one step, op by op, also without memory (meta tensors)
setups       every choice that changes memory, and the model it means; `kernels`, `autocast` and `optimizers`
             stand in for what meta tensors cannot run
tables       a step's bytes as polynomials in layers, batch, length and rank: `polynomials` fits, `building` traces,
             `library` keeps them
memory       the same in closed form, for the Llama family
measure      what the allocator really gave, on a CPU and (`measure_cuda`) on a GPU
advice, explain, rules           what fits and what to change; the peak term by term; public rules of thumb
"""
