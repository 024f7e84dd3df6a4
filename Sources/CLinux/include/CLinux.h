#pragma once
// Constants, structures and `static inline` wrappers of Linux interfaces that Swift cannot import by itself.
#include "lab_shim.h"
#include "ports_shim.h"
