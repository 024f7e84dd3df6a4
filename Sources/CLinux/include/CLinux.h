#pragma once
// Constants, structures and `static inline` wrappers of Linux interfaces that Swift cannot import by itself.
#include "ports_shim.h"
#include "inotify_shim.h"
