/* See sha256.h. A failure of libcrypto leaves an empty state, so that callers only check final. */
#include "core/base/sha256.h"

#include <openssl/evp.h>

void um_sha256_drop(um_sha256 *h)
{
    EVP_MD_CTX_free(h->state);
    h->state = NULL;
}

void um_sha256_init(um_sha256 *h)
{
    h->state = EVP_MD_CTX_new();
    if (h->state != NULL && EVP_DigestInit_ex(h->state, EVP_sha256(), NULL) != 1) um_sha256_drop(h);
}

void um_sha256_update(um_sha256 *h, const void *data, size_t bytes)
{
    if (h->state == NULL || bytes == 0) return;
    if (EVP_DigestUpdate(h->state, data, bytes) != 1) um_sha256_drop(h);
}

um_status um_sha256_final(um_sha256 *h, char hex[UM_SHA256_HEX], um_err *err)
{
    static const char digit[] = "0123456789abcdef";
    unsigned char sum[EVP_MAX_MD_SIZE];
    unsigned n = 0;
    bool ok = h->state != NULL && EVP_DigestFinal_ex(h->state, sum, &n) == 1 && n == 32;
    um_sha256_drop(h);
    if (!ok) return UM_FAIL(err, UM_E_MEMORY, "libcrypto could not compute a SHA-256");
    for (unsigned i = 0; i < n; i++) {
        hex[2 * i] = digit[sum[i] >> 4];
        hex[2 * i + 1] = digit[sum[i] & 15];
    }
    hex[2 * n] = '\0';
    return UM_OK;
}

um_status um_sha256_of(char hex[UM_SHA256_HEX], const void *data, size_t bytes, um_err *err)
{
    um_sha256 h;
    um_sha256_init(&h);
    um_sha256_update(&h, data, bytes);
    return um_sha256_final(&h, hex, err);
}
