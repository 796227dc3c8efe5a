/* CRC-32 as zlib has it (polynomial 0xEDB88320): what frames are sealed with. */

#ifndef MODELVAULT_CRC_H
#define MODELVAULT_CRC_H

#include <stddef.h>
#include <stdint.h>

/* Once, before the others. */
void crc_prepare(void);

/* The checksum of some bytes and n more, from that of the former (0 of none). */
uint32_t crc_plain(uint32_t sum, const uint8_t *bytes, size_t n);

#endif
