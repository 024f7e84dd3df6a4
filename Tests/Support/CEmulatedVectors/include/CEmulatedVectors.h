#pragma once
// The fast path's code for vectors of 512 bits on processors that have none, for tests: the same files once more, with what
// stands for the instructions.

/// From now on frames can be asked to be taken by eight lanes; not to be called while some are. Whether that can be had.
int kalsae_emulate_eights(void);
