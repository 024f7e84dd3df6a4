#include "plain_octets.h"

#if defined(__x86_64__)
struct kalsae_eights kalsae_eights = {
    .read = kalsae_plain_read_eights, .unwrap = kalsae_plain_unwrap_eights, .trust = kalsae_plain_trust_eights,
    .find = kalsae_plain_find_eights, .send = kalsae_plain_send_eights,
};
#endif
