/* One evaluation of the head's network (`DiffusionHead.forward`) whose modulations are computed already.
 *
 * Its pure-torch twin is `_HoistedNetwork` in head.py, and a test holds them together. At a few rows a small head's
 * arithmetic takes a tenth of what it costs to call torch's operations one by one; here the calls are gone. Weights come
 * packed in panels of PANEL outputs, (panel, inputs, PANEL), so that each is read once, in order, for TILE rows.
 *
 * Shapes: R rows, C channels of a token, W width, O outputs. Compiled once with REAL=float and once with REAL=double.
 */

#include <math.h>

typedef REAL real;

#define LANES (32 / (int)sizeof(real))
#define VECTORS 4
#define PANEL (VECTORS * LANES) /* compiled_head.py packs by the same number */
#define TILE 3                  /* rows whose VECTORS sums fit into 16 registers beside a weight */

typedef real vector __attribute__((vector_size(32), aligned(sizeof(real))));

typedef struct {
    const real *weight; /* (panels, inputs, PANEL) */
    const real *bias;   /* (panels * PANEL) */
} Linear;

typedef struct {
    const real *norm_weight, *norm_bias; /* (W) */
    Linear expand, project;
} Block;

typedef struct {
    long rows, channels, width, outputs, depth;
    double eps;
    Linear input, output;
    const Block *blocks;
    const real *const *modulations; /* depth of (grid, R, 3 W): shift, 1 + scale, gate; then one of (grid, R, 2 W) */
    real *state, *hidden, *inner;   /* (R, W rounded up to panels) */
    real *result;                   /* (R, O rounded up to panels) */
} Network;

static long padded(long size) { return (size + PANEL - 1) / PANEL * PANEL; }

/* One panel of outputs for `rows` rows, which is a constant wherever this is inlined. */
static inline __attribute__((always_inline)) void panel(
    const real *weight, const real *bias, const real *x, long stride, long inputs, real *y, long out, const int rows) {
    vector sums[TILE][VECTORS];
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < VECTORS; v++) sums[r][v] = *(const vector *)(bias + v * LANES);
    for (long i = 0; i < inputs; i++, weight += PANEL)
        for (int v = 0; v < VECTORS; v++) {
            const vector column = *(const vector *)(weight + v * LANES);
            for (int r = 0; r < rows; r++) sums[r][v] += x[r * stride + i] * column;
        }
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < VECTORS; v++) *(vector *)(y + r * out + v * LANES) = sums[r][v];
}

/* y (R, outputs) = x (R, inputs) W^T + b, rows `stride` apart in x and as many as the outputs padded apart in y. */
static void linear(Linear layer, const real *x, long stride, long inputs, real *y, long outputs, long rows) {
    const long out = padded(outputs);
    for (long p = 0; p < out; p += PANEL) {
        const real *weight = layer.weight + p * inputs, *bias = layer.bias + p;
        long r = 0;
        for (; r + TILE <= rows; r += TILE) panel(weight, bias, x + r * stride, stride, inputs, y + r * out + p, out, TILE);
        if (rows - r == 2) panel(weight, bias, x + r * stride, stride, inputs, y + r * out + p, out, 2);
        if (rows - r == 1) panel(weight, bias, x + r * stride, stride, inputs, y + r * out + p, out, 1);
    }
}

/* y = norm(x) * scale + shift; without weight and bias the norm has none. */
static void modulated_norm(
    const real *x, const real *weight, const real *bias, const real *shift, const real *scale, long width, real eps,
    real *y) {
    real mean = 0, variance = 0;
#pragma omp simd reduction(+ : mean)
    for (long i = 0; i < width; i++) mean += x[i];
    mean /= width;
#pragma omp simd reduction(+ : variance)
    for (long i = 0; i < width; i++) variance += (x[i] - mean) * (x[i] - mean);
    const real inverse = 1 / (real)sqrt(variance / width + eps);
    if (weight)
        for (long i = 0; i < width; i++) y[i] = ((x[i] - mean) * inverse * weight[i] + bias[i]) * scale[i] + shift[i];
    else
        for (long i = 0; i < width; i++) y[i] = (x[i] - mean) * inverse * scale[i] + shift[i];
}

/* x (R, C) to `result` at grid point `point` of the modulations. */
void evaluate(const Network *net, long point, const real *x) {
    const long rows = net->rows, width = net->width, wide = padded(width), depth = net->depth;
    linear(net->input, x, net->channels, net->channels, net->state, width, rows);
    for (long b = 0; b < depth; b++) {
        const Block *block = net->blocks + b;
        const real *modulation = net->modulations[b] + point * rows * 3 * width;
        for (long r = 0; r < rows; r++) {
            const real *m = modulation + r * 3 * width;
            modulated_norm(
                net->state + r * wide, block->norm_weight, block->norm_bias, m, m + width, width, net->eps,
                net->hidden + r * wide);
        }
        linear(block->expand, net->hidden, wide, width, net->inner, width, rows);
        for (long r = 0; r < rows; r++) {
            real *h = net->inner + r * wide;
            for (long i = 0; i < width; i++) h[i] = h[i] / (1 + EXP(-h[i]));
        }
        linear(block->project, net->inner, wide, width, net->hidden, width, rows);
        for (long r = 0; r < rows; r++) {
            const real *gate = modulation + r * 3 * width + 2 * width, *h = net->hidden + r * wide;
            real *state = net->state + r * wide;
            for (long i = 0; i < width; i++) state[i] += gate[i] * h[i];
        }
    }
    const real *modulation = net->modulations[depth] + point * rows * 2 * width;
    for (long r = 0; r < rows; r++) {
        const real *m = modulation + r * 2 * width;
        modulated_norm(net->state + r * wide, 0, 0, m, m + width, width, net->eps, net->hidden + r * wide);
    }
    linear(net->output, net->hidden, wide, width, net->result, net->outputs, rows);
}

/* `count` steps of ancestral sampling (`diffusion.ddpm_loop`) at the grid points from `point` on; x (R, C) is the state.
 *
 * factors (count, 2 C): of the network's outputs, the predicted noise and the exponent of its deviation; growth (count);
 * added (count, R, C), or for the last step of all nothing, when `last` is set.
 */
void ddpm(
    const Network *net, long point, long count, real *x, const real *factors, const real *growth, const real *added,
    long last) {
    const long rows = net->rows, channels = net->channels, out = padded(net->outputs);
    for (long step = 0; step < count; step++, factors += 2 * channels, added += rows * channels) {
        evaluate(net, point + step, x);
        const int noisy = !(last && step + 1 == count);
        for (long r = 0; r < rows; r++)
            for (long c = 0; c < channels; c++) {
                const real *result = net->result + r * out;
                real *token = x + r * channels + c;
                *token = result[c] * factors[c] + growth[step] * *token;
                if (noisy) *token += EXP(result[channels + c] * factors[channels + c]) * added[r * channels + c];
            }
    }
}
