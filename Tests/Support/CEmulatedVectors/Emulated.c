#include "CEmulatedVectors.h"

#include "emulated.h"

#if KALSAE_IS_EMULATED
#include "../../../Sources/CDataplane/plain_octets.h"

size_t kalsae_emulated_read(const struct kalsae_plain *plain, size_t first, size_t end);
size_t kalsae_emulated_unwrap(const struct kalsae_plain *plain, size_t first, size_t end);
size_t kalsae_emulated_trust(const struct kalsae_plain *plain, const struct kalsae_peers *peers, size_t first, size_t end);
size_t kalsae_emulated_find(const struct kalsae_search *search, size_t count);
size_t kalsae_emulated_send(struct kalsae_departure *departure, size_t first, size_t end);

int kalsae_emulate_eights(void) {
  const unsigned lanes = kalsae_plain_lanes();
  if (lanes == 4) {
    kalsae_eights = (struct kalsae_eights){
        kalsae_emulated_read, kalsae_emulated_unwrap, kalsae_emulated_trust, kalsae_emulated_find, kalsae_emulated_send};
  }
  return lanes >= 4;
}
#else
#include "CDataplane.h"

int kalsae_emulate_eights(void) { return kalsae_plain_lanes() == 8; }
#endif
