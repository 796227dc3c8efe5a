#include "tables.h"

enum { WEIGHTS = 46, FIRST_GUESS = 20 };

/* What a table is taken to cost, and each of its symbols; which contexts have too few tokens for one of their own.
   modelvault/codec/frequencies.py says why. */
enum { TABLE_BITS = 80, SYMBOL_BITS = 4, FEW_TOKENS = 512, FEW_SHARE = 64 };

/* 16 * 2^((g - 1) / 4), rounded: four steps an octave cost a token less than 0.002 bits. */
static const uint16_t WEIGHT[WEIGHTS] = {
    0,    16,   19,   23,   27,   32,   38,   45,   54,   64,   76,    91,    108,   128,   152,   181,
    215,  256,  304,  362,  431,  512,  609,  724,  861,  1024, 1218,  1448,  1722,  2048,  2435,  2896,
    3444, 4096, 4871, 5793, 6889, 8192, 9742, 11585, 13777, 16384, 19484, 23170, 27554, 32768,
};

/* The least value that is nearer, as a ratio, to weight g + 2 than to weight g + 1. */
static const uint16_t THRESHOLD[WEIGHTS - 2] = {
    18,   21,   25,   30,   35,   42,   50,   59,   70,   84,    100,   118,   140,   166,   198,
    235,  279,  332,  395,  470,  559,  665,  790,  939,  1117,  1329,  1580,  1878,  2234,  2656,
    3159, 3756, 4467, 5313, 6318, 7513, 8934, 10624, 12634, 15025, 17867, 21248, 25268, 30049,
};

/* Counts of one or more neighbouring contexts, while it is decided which of them share a table. */
typedef struct {
    int context, low, high;
    uint32_t total;
    int64_t cost; /* in 1/256 bits: of the tokens and of the table */
    uint32_t *counts;
} Group;

static const uint32_t NO_COUNTS[MAX_ALPHABET];

/* Of tokens whose counts are the sum of two, and of their table. */
static int64_t cost_of(const Kernels *kernels, const uint32_t *one, const uint32_t *other, int low, int high,
                       uint32_t total) {
    const int symbols = high - low + 1;
    return 256 * (SYMBOL_BITS * symbols + TABLE_BITS) +
           (int64_t)kernels->token_bits(one + low, other + low, (size_t)symbols, total);
}

static int64_t saving_of(const Kernels *kernels, const Group *left, const Group *right) {
    int low = left->low < right->low ? left->low : right->low;
    int high = left->high > right->high ? left->high : right->high;
    return left->cost + right->cost - cost_of(kernels, left->counts, right->counts, low, high, left->total + right->total);
}

/* Returns false where the likeliest symbol would have none left. */
static bool set_frequencies(Table *table) {
    if (table->count == 1) {
        table->frequency[table->low] = FREQUENCIES;
        return true;
    }
    uint32_t sum = 0, given = 0;
    int most = 0;
    for (int i = 0; i < table->count; i++) {
        sum += WEIGHT[table->weights[i]];
        if (table->weights[i] > table->weights[most]) most = i;
    }
    for (int i = 0; i < table->count; i++) {
        const uint32_t weight = WEIGHT[table->weights[i]];
        uint32_t frequency = weight * FREQUENCIES / sum;
        if (weight && !frequency) frequency = 1;
        table->frequency[table->low + i] = (uint16_t)frequency;
        given += frequency;
    }
    /* What rounding left over, or took too much, is the likeliest symbol's. */
    int rest = (int)table->frequency[table->low + most] + FREQUENCIES - (int)given;
    if (rest < 1) return false;
    table->frequency[table->low + most] = (uint16_t)rest;
    return true;
}

static bool table_fit(Table *table, const uint32_t *counts, int low, int high, uint32_t total) {
    table->low = low;
    table->count = high - low + 1;
    for (int i = 0; i < table->count; i++) {
        uint32_t count = counts[low + i];
        uint32_t share = (uint32_t)((uint64_t)count * 32768 / total);
        int code = count != 0;
        if (share >= 16) { /* of a power of two it is known, and four lie between two: no loop, which would be foreseen badly */
            const int first = 4 * (floor_log2(share) - 4);
            code += first;
            for (int j = first; j < first + 4 && j < WEIGHTS - 2; j++) code += THRESHOLD[j] <= share;
        }
        table->weights[i] = (uint8_t)code;
    }
    return set_frequencies(table);
}

bool model_fit(const Kernels *kernels, Model *model, uint32_t *counts, int stride, Contexts used) {
    Group groups[CONTEXTS];
    int64_t savings[CONTEXTS]; /* of group i with the one on its right */
    int left = 0;
    uint32_t totals[CONTEXTS], all = 0;
    for (int context = used.least; context <= used.most; context++) {
        totals[context] = 0;
        for (int symbol = 0; symbol < stride; symbol++) totals[context] += counts[context * stride + symbol];
        all += totals[context];
    }
    const uint32_t few = all / FEW_SHARE < FEW_TOKENS ? all / FEW_SHARE : FEW_TOKENS;
    for (int context = used.least, next; context <= used.most; context = next) {
        Group group = {.context = context, .total = totals[context], .counts = counts + (size_t)(context * stride)};
        next = context + 1;
        if (!group.total) continue;
        for (; next <= used.most && group.total < few; next++) {
            for (int symbol = 0; symbol < stride; symbol++) group.counts[symbol] += counts[next * stride + symbol];
            group.total += totals[next];
        }
        for (group.low = 0; !group.counts[group.low];) group.low++;
        for (group.high = stride - 1; !group.counts[group.high];) group.high--;
        group.cost = cost_of(kernels, group.counts, NO_COUNTS, group.low, group.high, group.total);
        groups[left++] = group;
    }
    for (int i = 0; i + 1 < left; i++) savings[i] = saving_of(kernels, &groups[i], &groups[i + 1]);
    while (left > 1) {
        int best = 0;
        for (int i = 1; i + 1 < left; i++) {
            if (savings[i] > savings[best]) best = i;
        }
        if (savings[best] <= 0 && left <= MAX_TABLES) break;
        Group *one = &groups[best], *other = one + 1;
        for (int symbol = other->low; symbol <= other->high; symbol++) one->counts[symbol] += other->counts[symbol];
        one->cost += other->cost - savings[best];
        one->total += other->total;
        if (other->low < one->low) one->low = other->low;
        if (other->high > one->high) one->high = other->high;
        left--;
        memmove(other, other + 1, (size_t)(left - best - 1) * sizeof *other);
        memmove(savings + best, savings + best + 1, (size_t)(left - best - 1) * sizeof *savings);
        if (best + 1 < left) savings[best] = saving_of(kernels, &groups[best], &groups[best + 1]);
        if (best) savings[best - 1] = saving_of(kernels, &groups[best - 1], &groups[best]);
    }
    model->tables = left;
    for (int i = 0; i < left; i++) {
        model->bounds[i] = i ? (uint8_t)groups[i].context : 0;
        const Group *group = &groups[i];
        if (!table_fit(&model->table[i], group->counts, group->low, group->high, group->total)) return false;
    }
    return true;
}

bool model_fit_one(Model *model, const uint32_t counts[MAX_ALPHABET]) {
    int low = 0, high = MAX_ALPHABET - 1;
    uint32_t total = 0;
    while (!counts[low]) low++;
    while (!counts[high]) high--;
    for (int symbol = low; symbol <= high; symbol++) total += counts[symbol];
    model->tables = 1;
    model->bounds[0] = 0;
    return table_fit(model->table, counts, low, high, total);
}

void model_write(const Model *model, BitWriter *writer) {
    bits_put(writer, (uint32_t)(model->tables - 1), 4);
    for (int i = 1; i < model->tables; i++) bits_put(writer, model->bounds[i], 6);
    for (int i = 0; i < model->tables; i++) {
        const Table *table = &model->table[i];
        bits_put(writer, (uint32_t)table->low, 8);
        bits_put(writer, (uint32_t)(table->count - 1), 8);
        if (table->count == 1) continue;
        int before = FIRST_GUESS;
        for (int j = 0; j < table->count; j++) {
            bits_put_golomb(writer, zigzag(table->weights[j] - before), 1);
            before = table->weights[j];
        }
    }
}

bool model_read(Model *model, BitReader *reader, int alphabet) {
    model->tables = (int)bits_take(reader, 4) + 1;
    model->bounds[0] = 0;
    for (int i = 1; i < model->tables; i++) {
        model->bounds[i] = (uint8_t)bits_take(reader, 6);
        if (model->bounds[i] <= model->bounds[i - 1]) return false;
    }
    for (int i = 0; i < model->tables; i++) {
        Table *table = &model->table[i];
        table->low = (int)bits_take(reader, 8);
        table->count = (int)bits_take(reader, 8) + 1;
        if (reader->failed || table->low + table->count > alphabet) return false;
        if (table->count > 1) {
            int weight = FIRST_GUESS;
            for (int j = 0; j < table->count; j++) {
                uint32_t step = bits_take_golomb(reader, 1);
                if (reader->failed || step > 2 * WEIGHTS) return false;
                weight += unzigzag(step);
                if (weight < 0 || weight >= WEIGHTS) return false;
                table->weights[j] = (uint8_t)weight;
            }
            if (!table->weights[0] || !weight) return false;
        }
        if (!set_frequencies(table)) return false;
    }
    return true;
}
