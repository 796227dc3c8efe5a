/* The CRC-32 of frames. */

#ifndef MODELVAULT_CHECKSUM_H
#define MODELVAULT_CHECKSUM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Whether this machine computes it faster than zlib does, which sees 8 bytes at a time. */
bool checksum_is_fast(void);

/* zlib's crc32(), on a machine where it is fast. */
uint32_t checksum(uint32_t sum, const uint8_t *data, size_t size);

#endif
