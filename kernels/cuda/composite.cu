// Differences put back into planes, in place: kernels/composite.py has the formula, the launcher is kernels/device.py.
//
// All faces and planes of a frame in one launch: grid (columns, rows of the largest face's box in blocks of 32 x 8,
// groups of planes x faces). Where boxes overlap, a sample belongs to the first face whose box holds it, and that
// thread goes through all faces after it, from the smallest to the largest.

#include "planes.cuh"

// Planes of one geometry: luma; both chroma; G; B and R. Kept in step with GROUP in device.py.
struct Group {
    u64 first, second;  // addresses of their samples (0, 0)
    long long stride;   // elements from row to row, of both
    int step;           // elements from column to column
    int num_planes;     // 1 or 2
    float matrix[6];    // a row of R'G'B' weights per plane
    float lowest, highest;
};

// A face in one group. Kept in step with FACE in device.py.
struct Face {
    double map[6];            // crop_from_plane
    double scale_u, scale_v;  // of the filters, >= 1
    double low_u, high_u, low_v, high_v;  // nothing is shown beyond
    int left, top, right, bottom;         // box in the plane, right and bottom exclusive; empty where nothing is to do
    int index;                // of its delta, its mask and its flag
    float strength;
};

struct Taps {
    int first, count;
    float from, back;
};

__device__ inline Taps taps_at(double place, double scale, double half_width)
{
    Taps taps;
    taps.first = (int)floor(place - half_width * scale) + 1;
    taps.count = (int)ceil(2.0 * half_width * scale);
    taps.from = (float)((place - taps.first) / scale);
    taps.back = (float)(1.0 / scale);
    return taps;
}

// The mask under the tent; 0 outside the crop.
__device__ inline float masked(const float *mask, int size, const Face &face, double u, double v)
{
    Taps across = taps_at(u, face.scale_u, 1.0), down = taps_at(v, face.scale_v, 1.0);
    float sum_u = 0.0f, sum_v = 0.0f, total = 0.0f;
    for (int i = 0; i < across.count; ++i)
        sum_u += tent(across.from - i * across.back);
    for (int j = 0; j < down.count; ++j) {
        float weight = tent(down.from - j * down.back), line = 0.0f;
        int row = down.first + j;
        sum_v += weight;
        if (row < 0 || row >= size || weight == 0.0f)
            continue;
        for (int i = 0; i < across.count; ++i) {
            int column = across.first + i;
            if (column >= 0 && column < size)
                line += tent(across.from - i * across.back) * mask[(long long)row * size + column];
        }
        total += weight * line;
    }
    return total / (sum_u * sum_v);
}

// The three channels of the delta under the cubic; 0 outside the crop. COUNT is the taps per axis, 0 any number.
template <int COUNT>
__device__ inline void restored_change(const float *delta, int size, const Face &face, double u, double v, float *change)
{
    Taps across = taps_at(u, face.scale_u, 2.0), down = taps_at(v, face.scale_v, 2.0);
    if (COUNT > 0)
        across.count = down.count = COUNT;
    long long layer = (long long)size * size;
    float sum_u = 0.0f, sum_v = 0.0f, total[3] = {0.0f, 0.0f, 0.0f};
    for (int i = 0; i < across.count; ++i)
        sum_u += cubic(across.from - i * across.back);
    for (int j = 0; j < down.count; ++j) {
        float weight = cubic(down.from - j * down.back), line[3] = {0.0f, 0.0f, 0.0f};
        int row = down.first + j;
        sum_v += weight;
        if (row < 0 || row >= size)
            continue;
        for (int i = 0; i < across.count; ++i) {
            int column = across.first + i;
            if (column < 0 || column >= size)
                continue;
            float weight_u = cubic(across.from - i * across.back);
            const float *at = delta + (long long)row * size + column;
            line[0] += weight_u * at[0];
            line[1] += weight_u * at[layer];
            line[2] += weight_u * at[2 * layer];
        }
        for (int c = 0; c < 3; ++c)
            total[c] += weight * line[c];
    }
    for (int c = 0; c < 3; ++c)
        change[c] = total[c] / (sum_u * sum_v);
}

template <typename Sample>
__device__ inline void write(u64 address, long long at, float change, const Group &group)
{
    Sample *samples = (Sample *)address;
    float source = (float)samples[at];  // 16 bits are exact in float, so no change is exactly no change
    float value = floorf(source + change + 0.5f);
    value = fmaxf(value, fminf(group.lowest, source));
    samples[at] = (Sample)(int)fminf(value, fmaxf(group.highest, source));
}

// faces: num_groups x num_faces, in the order of painting. usable: a flag per face, 0 leaves it out; or null.
template <typename Sample>
__device__ void composite(const Group *groups, const Face *faces, int num_faces, const float *deltas,
                          const float *masks, int num_masks, const u8 *usable, int size)
{
    int which = blockIdx.z / num_faces, mine = blockIdx.z % num_faces;
    const Group &group = groups[which];
    const Face *all = faces + (long long)which * num_faces;
    int x = all[mine].left + (int)(blockIdx.x * blockDim.x + threadIdx.x);
    int y = all[mine].top + (int)(blockIdx.y * blockDim.y + threadIdx.y);
    if (x >= all[mine].right || y >= all[mine].bottom)
        return;
    for (int k = 0; k < mine; ++k)
        if (x >= all[k].left && x < all[k].right && y >= all[k].top && y < all[k].bottom)
            return;  // that face's thread paints this sample
    float change[2] = {0.0f, 0.0f};
    bool is_changed = false;
    for (int k = mine; k < num_faces; ++k) {
        const Face &face = all[k];
        if (x < face.left || x >= face.right || y < face.top || y >= face.bottom)
            continue;
        if (usable && !usable[face.index])
            continue;
        double u = face.map[0] * x + (face.map[1] * y + face.map[2]);
        double v = face.map[3] * x + (face.map[4] * y + face.map[5]);
        if (!(u >= face.low_u && u <= face.high_u && v >= face.low_v && v <= face.high_v))
            continue;
        const float *mask = masks + (long long)(num_masks == 1 ? 0 : face.index) * size * size;
        float alpha = face.strength * fminf(masked(mask, size, face, u, v), 1.0f);  // a rounded sum may pass 1
        if (alpha == 0.0f)
            continue;
        float restored[3];
        const float *delta = deltas + (long long)face.index * 3 * size * size;
        if (face.scale_u <= 1.0 && face.scale_v <= 1.0)
            restored_change<4>(delta, size, face, u, v, restored);
        else
            restored_change<0>(delta, size, face, u, v, restored);
#pragma unroll
        for (int p = 0; p < 2; ++p) {  // the second row is zeros where there is one plane
            const float *row = group.matrix + 3 * p;
            float code = row[0] * restored[0] + row[1] * restored[1] + row[2] * restored[2];
            change[p] = (1.0f - alpha) * change[p] + alpha * code;
        }
        is_changed = true;
    }
    if (!is_changed)
        return;
    long long at = (long long)y * group.stride + (long long)x * group.step;
    write<Sample>(group.first, at, change[0], group);
    if (group.num_planes == 2)
        write<Sample>(group.second, at, change[1], group);
}

extern "C" __global__ void composite_u8(const Group *groups, const Face *faces, int num_faces, const float *deltas,
                                        const float *masks, int num_masks, const u8 *usable, int size)
{
    composite<u8>(groups, faces, num_faces, deltas, masks, num_masks, usable, size);
}

extern "C" __global__ void composite_u16(const Group *groups, const Face *faces, int num_faces, const float *deltas,
                                         const float *masks, int num_masks, const u8 *usable, int size)
{
    composite<u16>(groups, faces, num_faces, deltas, masks, num_masks, usable, size);
}
