"""Pages to move things on: each shows what `accounting` computes, with no arithmetic of its own."""
