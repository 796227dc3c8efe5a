#include "crc.h"

#include "numbers.h"

/* [j][b]: what a byte b does to the sum when j more bytes have followed. */
static uint32_t effects[8][256];

void crc_prepare(void) {
    for (uint32_t b = 0; b < 256; b++) {
        uint32_t sum = b;
        for (int bit = 0; bit < 8; bit++) sum = sum >> 1 ^ (0xEDB88320u & (0u - (sum & 1)));
        effects[0][b] = sum;
    }
    for (int j = 1; j < 8; j++) {
        for (int b = 0; b < 256; b++) effects[j][b] = effects[j - 1][b] >> 8 ^ effects[0][effects[j - 1][b] & 0xFF];
    }
}

uint32_t crc_plain(uint32_t sum, const uint8_t *bytes, size_t n) {
    sum = ~sum;
    for (; n >= 8; n -= 8, bytes += 8) {
        uint32_t low, high;
        memcpy(&low, bytes, 4);
        memcpy(&high, bytes + 4, 4);
        low ^= sum;
        sum = effects[7][low & 0xFF] ^ effects[6][low >> 8 & 0xFF] ^ effects[5][low >> 16 & 0xFF] ^ effects[4][low >> 24];
        sum ^= effects[3][high & 0xFF] ^ effects[2][high >> 8 & 0xFF] ^ effects[1][high >> 16 & 0xFF] ^ effects[0][high >> 24];
    }
    for (; n; n--) sum = sum >> 8 ^ effects[0][(sum ^ *bytes++) & 0xFF];
    return ~sum;
}
