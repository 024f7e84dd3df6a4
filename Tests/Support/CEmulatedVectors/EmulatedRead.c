#include "emulated.h"

#if KALSAE_IS_EMULATED
#define kalsae_plain_read_eights kalsae_emulated_read
#define kalsae_plain_unwrap_eights kalsae_emulated_unwrap
#include "../../../Sources/CDataplane/PlainEights.c"
#endif
