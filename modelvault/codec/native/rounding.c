#include "rounding.h"

enum { TILE = 512 };

/* `rounded` holds what words are rounded to; where the limit does not hold, what they were. */
__attribute__((always_inline)) static inline size_t keep(const Format format, const void *words, const uint8_t *good,
                                                         size_t n, void *rounded) {
    size_t changed = 0;
    for (size_t i = 0; i < n; i++) {
        if (format == FORMAT_F32) {
            const uint32_t old = ((const uint32_t *)words)[i], new = good[i] ? ((uint32_t *)rounded)[i] : old;
            ((uint32_t *)rounded)[i] = new;
            changed += new != old;
        } else {
            const uint16_t old = ((const uint16_t *)words)[i], new = good[i] ? ((uint16_t *)rounded)[i] : old;
            ((uint16_t *)rounded)[i] = new;
            changed += new != old;
        }
    }
    return changed;
}

Measured round_words(const Kernels *kernels, Format format, const void *words, size_t n, double step, double limit,
                     void *rounded) {
    Measured measured = {0};
    const size_t w = (size_t)LAYOUTS[format].word_bytes;
    for (size_t start = 0; start < n; start += TILE) {
        const size_t some = n - start < TILE ? n - start : TILE;
        const uint8_t *from = (const uint8_t *)words + start * w;
        uint8_t *to = (uint8_t *)rounded + start * w, good[TILE];
        double before[TILE], after[TILE];
        kernels->load[format](from, some, before);
        kernels->round_numbers(before, some, 1 / step, step, after);
        kernels->store[format](after, some, to);
        kernels->load[format](to, some, after);
        measured.kept += some - kernels->hold_limit(before, after, some, limit, good, &measured.most, &measured.most_share);
        measured.changed += format == FORMAT_F32 ? keep(FORMAT_F32, from, good, some, to)
                                                 : keep(FORMAT_BF16, from, good, some, to);
    }
    return measured;
}
