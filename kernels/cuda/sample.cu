// Crops out of planes: kernels/sample.py has the formula, the launcher is kernels/device.py.
//
// means_*: means over blocks of a whole plane, for crops whose pixels cover 4 samples and more per axis.
// sample_*: one thread per crop pixel, all crops of a frame in one launch; grid (ceil(S / 32), ceil(S / 8), crops).

#include "planes.cuh"

// One plane as one crop reads it: the samples themselves, or their means. Kept in step with SOURCE in device.py.
struct Source {
    double map[6];      // source_from_crop, rows x and y
    u64 address;        // of element (0, 0)
    long long stride;   // elements from row to row
    int step;           // elements from column to column: 2 for the chroma of nv12
    int width, height;
    int is_means;       // float means, else samples
    float scale_x, scale_y;  // of the filter, in [1, 4)
    int taps;           // per axis, a multiple of 4 that covers both
    int unused;
};

// Borders repeat the edge. TAPS is the number of taps per axis, those beyond the filter's reach have no weight.
template <typename Element, int TAPS>
__device__ float filtered_by(const Source &source, double x, double y)
{
    const Element *elements = (const Element *)source.address;
    int first_x = (int)floor(x - 2.0 * source.scale_x) + 1, first_y = (int)floor(y - 2.0 * source.scale_y) + 1;
    float back_x = 1.0f / source.scale_x, back_y = 1.0f / source.scale_y;
    float from_x = (float)((x - first_x) / source.scale_x), from_y = (float)((y - first_y) / source.scale_y);
    float weights[TAPS];
    int columns[TAPS];
    float sum_x = 0.0f, sum_y = 0.0f, total = 0.0f;
#pragma unroll
    for (int i = 0; i < TAPS; ++i) {
        weights[i] = cubic(from_x - i * back_x);
        sum_x += weights[i];
        columns[i] = between(0, first_x + i, source.width - 1) * source.step;
    }
#pragma unroll 4
    for (int j = 0; j < TAPS; ++j) {
        const Element *row = elements + between(0, first_y + j, source.height - 1) * source.stride;
        float line = 0.0f, weight = cubic(from_y - j * back_y);
#pragma unroll
        for (int i = 0; i < TAPS; ++i)
            line += weights[i] * (float)row[columns[i]];
        total += weight * line;
        sum_y += weight;
    }
    return total / (sum_x * sum_y);
}

template <typename Element>
__device__ float filtered(const Source &source, double x, double y)
{
    if (source.taps == 4)
        return filtered_by<Element, 4>(source, x, y);
    if (source.taps == 8)
        return filtered_by<Element, 8>(source, x, y);
    return filtered_by<Element, 16>(source, x, y);
}

template <typename Sample>
__device__ float value_at(const Source &source, int u, int v)
{
    // four samples beyond the reach of a filter all taps are the edge's
    double reach = ceil(2.0 * (source.scale_x > source.scale_y ? source.scale_x : source.scale_y)) + 1.0;
    double x = source.map[0] * u + (source.map[1] * v + source.map[2]);
    double y = source.map[3] * u + (source.map[4] * v + source.map[5]);
    x = between(-reach, x, source.width + reach);
    y = between(-reach, y, source.height + reach);
    return source.is_means ? filtered<float>(source, x, y) : filtered<Sample>(source, x, y);
}

// colour: 3 rows of 3 weights and an offset; curve: the tone curve's values at num_nodes even places in [-1, 1], or 0.
template <typename Sample>
__device__ void sample(const Source *sources, int num_planes, const float *colour, const float *curve, int num_nodes,
                       int size, float *crops)
{
    int u = blockIdx.x * blockDim.x + threadIdx.x, v = blockIdx.y * blockDim.y + threadIdx.y;
    if (u >= size || v >= size)
        return;
    const Source *mine = sources + (long long)blockIdx.z * num_planes;
    float codes[3] = {0.0f, 0.0f, 0.0f};
    for (int p = 0; p < num_planes; ++p)
        codes[p] = value_at<Sample>(mine[p], u, v);
    for (int c = 0; c < 3; ++c) {
        const float *row = colour + 4 * c;
        float value = row[0] * codes[0] + row[1] * codes[1] + row[2] * codes[2] + row[3];
        value = fminf(fmaxf(value, -1.0f), 1.0f);
        if (num_nodes > 0) {
            float place = (value + 1.0f) * 0.5f * (num_nodes - 1);
            int node = between(0, (int)place, num_nodes - 2);
            value = curve[node] + (place - node) * (curve[node + 1] - curve[node]);
        }
        crops[(((long long)blockIdx.z * 3 + c) * size + v) * size + u] = value;
    }
}

extern "C" __global__ void sample_u8(const Source *sources, int num_planes, const float *colour, const float *curve,
                                     int num_nodes, int size, float *crops)
{
    sample<u8>(sources, num_planes, colour, curve, num_nodes, size, crops);
}

extern "C" __global__ void sample_u16(const Source *sources, int num_planes, const float *colour, const float *curve,
                                      int num_nodes, int size, float *crops)
{
    sample<u16>(sources, num_planes, colour, curve, num_nodes, size, crops);
}

// One thread per mean. Row 0 and column 0 of the means, and the last ones, hold the repeated border alone.
template <typename Sample>
__device__ void mean(const Sample *plane, long long stride, int step, int width, int height, int block_x, int block_y,
                     float *means, int num_columns, int num_rows)
{
    int column = blockIdx.x * blockDim.x + threadIdx.x, row = blockIdx.y * blockDim.y + threadIdx.y;
    if (column >= num_columns || row >= num_rows)
        return;
    int total = 0;
    for (int j = 0; j < block_y; ++j) {
        const Sample *line = plane + between(0, (row - 1) * block_y + j, height - 1) * stride;
        for (int i = 0; i < block_x; ++i)
            total += line[between(0, (column - 1) * block_x + i, width - 1) * step];
    }
    means[(long long)row * num_columns + column] = (1.0f / (block_x * block_y)) * (float)total;
}

extern "C" __global__ void means_u8(const u8 *plane, long long stride, int step, int width, int height, int block_x,
                                    int block_y, float *means, int num_columns, int num_rows)
{
    mean<u8>(plane, stride, step, width, height, block_x, block_y, means, num_columns, num_rows);
}

extern "C" __global__ void means_u16(const u16 *plane, long long stride, int step, int width, int height, int block_x,
                                     int block_y, float *means, int num_columns, int num_rows)
{
    mean<u16>(plane, stride, step, width, height, block_x, block_y, means, num_columns, num_rows);
}
