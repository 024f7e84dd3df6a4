#include "emulated.h"

#if KALSAE_IS_EMULATED
#define kalsae_plain_find_eights kalsae_emulated_find
#include "../../../Sources/CDataplane/PlainEightsFind.c"
#endif
