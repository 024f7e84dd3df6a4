#include "emulated.h"

#if KALSAE_IS_EMULATED
#define kalsae_plain_trust_eights kalsae_emulated_trust
#include "../../../Sources/CDataplane/PlainEightsTrust.c"
#endif
