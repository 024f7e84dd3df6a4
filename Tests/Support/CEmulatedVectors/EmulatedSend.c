#include "emulated.h"

#if KALSAE_IS_EMULATED
#define kalsae_plain_send_eights kalsae_emulated_send
#include "../../../Sources/CDataplane/PlainEightsSend.c"
#endif
