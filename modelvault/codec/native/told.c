#include "told.h"

#include <math.h>

enum { LENGTH_ORDER = 6, EXPONENT_ORDER = 4, FACTOR_BITS = 8, FACTOR = 1 << 16, FIRST_NUMBER = 2 };

static bool is_counted(const Piece *piece) { return piece->kind >= PIECE_EQUAL; }

/* On the same kind of steps, or on none alike. */
static bool are_alike(const Piece *one, const Piece *other) {
    if (one->kind != other->kind) return false;
    if (one->kind == PIECE_ANCHORED) return one->value == other->value;
    return !is_counted(one) || (one->exponent == other->exponent && one->mantissa == other->mantissa);
}

/* One of each kind that pieces are, in the order in which they are numbered; 0 if there are too many. */
static int choices_of(const Piece *pieces, size_t count, Piece *choices) {
    int found = FIRST_NUMBER;
    memset(choices, 0, FIRST_NUMBER * sizeof *choices);
    choices[1].kind = PIECE_SAME;
    for (size_t i = 0; i < count; i++) {
        int number = 0;
        while (number < found && !are_alike(&choices[number], &pieces[i])) number++;
        if (number < found) continue;
        if (found == FIRST_NUMBER + MOST_GRIDS) return 0;
        choices[found++] = pieces[i];
    }
    return found;
}

/* In 65536ths from 1. */
static double told_factor(const Piece *piece) { return rint((piece->value - 1) * FACTOR); }

bool pieces_can_be_told(const Piece *pieces, size_t count) {
    Piece choices[FIRST_NUMBER + MOST_GRIDS];
    for (size_t i = 0; i < count; i++) {
        const Piece *piece = &pieces[i];
        if (piece->kind > PIECE_ANCHORED || piece->mantissa > 31) return false;
        if (piece->exponent < -MOST_EXPONENT || piece->exponent > MOST_EXPONENT) return false;
        if (i + 1 < count && (!piece->words || piece->words >= 1u << 30)) return false;
        if (piece->kind == PIECE_ANCHORED && !(piece->value > 0 && piece->value < (double)INFINITY)) return false;
        if (piece->kind == PIECE_EQUAL && !(fabs(told_factor(piece)) < 0x1p30)) return false;
    }
    return count && count < 1 << 24 && choices_of(pieces, count, choices);
}

static void put_steps(BitWriter *writer, const Piece *piece) {
    bits_put(writer, (uint32_t)piece->kind - PIECE_EQUAL, 2);
    if (piece->kind == PIECE_ANCHORED) {
        uint32_t halves[2];
        memcpy(halves, &piece->value, sizeof halves);
        bits_put(writer, halves[0], 32);
        bits_put(writer, halves[1], 32);
        return;
    }
    if (piece->kind == PIECE_DOUBLING) bits_put(writer, piece->mantissa, 5);
    bits_put_golomb(writer, zigzag(piece->exponent), EXPONENT_ORDER);
}

size_t pieces_tell(const Piece *pieces, size_t count, bool delta, uint8_t *told) {
    BitWriter writer = {.at = told, .end = told + MOST_TOLD * (count + MOST_GRIDS)};
    Piece choices[FIRST_NUMBER + MOST_GRIDS];
    const int found = choices_of(pieces, count, choices), width = floor_log2((uint32_t)found - 1) + 1;
    bits_put(&writer, (uint32_t)(found - FIRST_NUMBER), 3);
    for (int i = FIRST_NUMBER; i < found; i++) put_steps(&writer, &choices[i]);
    bits_put_golomb(&writer, (uint32_t)count - 1, 0);
    uint32_t words = 0;
    int before = FIRST_NUMBER;
    for (size_t i = 0; i < count; i++) {
        const Piece *piece = &pieces[i];
        if (i + 1 < count) {
            bits_put(&writer, piece->words != words, 1);
            if (piece->words != words) bits_put_golomb(&writer, piece->words - 1, LENGTH_ORDER);
        }
        int number = 0;
        while (!are_alike(&choices[number], piece)) number++;
        bits_put(&writer, number != before, 1);
        if (number != before) bits_put(&writer, (uint32_t)number, width);
        if (piece->kind == PIECE_EQUAL && delta) {
            const int32_t factor = (int32_t)told_factor(piece);
            bits_put(&writer, factor != 0, 1);
            if (factor) {
                bits_put_golomb(&writer, zigzag(factor) >> FACTOR_BITS, 0);
                bits_put(&writer, zigzag(factor) & ((1u << FACTOR_BITS) - 1), FACTOR_BITS);
            }
        }
        words = piece->words;
        before = number;
    }
    bits_close(&writer);
    return (size_t)(writer.at - told);
}

static const char *take_steps(BitReader *reader, Piece *piece) {
    *piece = (Piece){.kind = (uint8_t)(bits_take(reader, 2) + PIECE_EQUAL)};
    if (piece->kind == PIECE_ANCHORED) {
        uint32_t halves[2];
        for (int i = 0; i < 2; i++) halves[i] = bits_take(reader, 32);
        memcpy(&piece->value, halves, sizeof halves);
        if (reader->failed) return "bits run out";
        return piece->value > 0 && piece->value < (double)INFINITY ? NULL : "multiples of what is no step";
    }
    if (piece->kind > PIECE_ANCHORED) return "steps of a kind that is none";
    if (piece->kind == PIECE_DOUBLING) piece->mantissa = (uint8_t)bits_take(reader, 5);
    const int32_t exponent = unzigzag(bits_take_golomb(reader, EXPONENT_ORDER));
    if (reader->failed) return "bits run out";
    if (exponent < -MOST_EXPONENT || exponent > MOST_EXPONENT) return "steps of a power beyond all";
    piece->exponent = (int16_t)exponent;
    return NULL;
}

const char *told_begin(ToldReader *told, const uint8_t *at, const uint8_t *end, size_t words, bool delta) {
    *told = (ToldReader){.reader = {.at = at, .end = end}, .words = words, .delta = delta};
    told->choices[1].kind = PIECE_SAME;
    told->count = FIRST_NUMBER + (int)bits_take(&told->reader, 3);
    for (int i = FIRST_NUMBER; i < told->count; i++) {
        const char *wrong = take_steps(&told->reader, &told->choices[i]);
        if (wrong) return wrong;
    }
    told->pieces = (size_t)bits_take_golomb(&told->reader, 0) + 1;
    if (told->reader.failed) return "bits run out";
    /* Each takes a bit. */
    const size_t left = 8 * (size_t)(end - told->reader.at) + (size_t)told->reader.count;
    return told->pieces > (words ? words : 1) || told->pieces > left ? "more pieces of words than there can be" : NULL;
}

const char *told_pieces(ToldReader *told, Piece *pieces, const uint8_t **at) {
    BitReader *reader = &told->reader;
    const int width = floor_log2((uint32_t)told->count - 1) + 1;
    size_t words = 0, left = told->words;
    int number = FIRST_NUMBER;
    for (size_t i = 0; i < told->pieces; i++) {
        if (i + 1 == told->pieces) {
            words = left;
        } else if (bits_take(reader, 1)) {
            words = (size_t)bits_take_golomb(reader, LENGTH_ORDER) + 1;
        }
        if (reader->failed) return "bits run out";
        if (words > left || (!words && told->words)) return "pieces of more words than there are, or of none";
        left -= words;
        if (bits_take(reader, 1)) number = (int)bits_take(reader, width);
        if (reader->failed) return "bits run out";
        if (number >= told->count || (number == 1 && !told->delta) || (number > 1 && !words)) {
            return "a piece of a kind that is none";
        }
        pieces[i] = told->choices[number];
        pieces[i].words = (uint32_t)words;
        if (pieces[i].kind != PIECE_EQUAL) continue;
        pieces[i].value = 1;
        if (told->delta && bits_take(reader, 1)) {
            const uint64_t high = bits_take_golomb(reader, 0), code = high << FACTOR_BITS | bits_take(reader, FACTOR_BITS);
            const int64_t factor = code & 1 ? -(int64_t)(code >> 1) - 1 : (int64_t)(code >> 1);
            pieces[i].value += (double)factor / FACTOR;
        }
        if (reader->failed) return "bits run out";
    }
    return bits_end(reader, at) ? NULL : "bits after the last one are not zero";
}
