// Triangle meshes drawn into pixels: kernels/rasterize.py has the formula and the launchers.
//
// clear_cells, rasterize: one 64-bit cell a pixel, the nearest triangle wins by atomicMax. In rasterize a warp takes 32
// triangles and the eight warps of a block every eighth row of them; grid (ceil(T / 32), 1, faces).
// shade, shade_gradient: one thread per pixel; grid (ceil(S / 32), ceil(S / 8), faces).
//
// Products and differences are rounded one by one (__dmul_rn, __dsub_rn), never contracted: the two triangles of an edge
// then find the same number with the other sign, and no pixel falls between them.

typedef unsigned int u32;
typedef unsigned long long u64;

#define NEAR 0.01
#define MAX_PLACE 1048576.0
#define MIN_AREA 1e-9

__device__ inline double cross(double ax, double ay, double bx, double by)
{
    return __dsub_rn(__dmul_rn(ax, by), __dmul_rn(ay, bx));
}

__device__ inline double least(double a, double b, double c)
{
    double ab = a < b ? a : b;
    return ab < c ? ab : c;
}

__device__ inline double most(double a, double b, double c)
{
    double ab = a > b ? a : b;
    return ab > c ? ab : c;
}

struct Corner {
    double x, y, inverse;  // pixels; 1 / depth, or 0 where it cannot be drawn
};

__device__ inline Corner corner(const float *points, const float *depth, int index)
{
    double x = points[2 * index], y = points[2 * index + 1], z = depth[index];
    // z - z is not 0 for an infinity; comparisons with NaN are false
    bool is_drawn = z >= NEAR && z - z == 0.0 && fabs(x) <= MAX_PLACE && fabs(y) <= MAX_PLACE;
    Corner found = {x, y, is_drawn ? 1.0 / z : 0.0};
    return found;
}

// The three products of a triangle at the centre of pixel (x, y).
__device__ inline void products(const Corner &a, const Corner &b, const Corner &c, int x, int y, double *e)
{
    double ax = __dsub_rn(a.x, x), bx = __dsub_rn(b.x, x), cx = __dsub_rn(c.x, x);
    double ay = __dsub_rn(a.y, y), by = __dsub_rn(b.y, y), cy = __dsub_rn(c.y, y);
    e[0] = cross(bx, by, cx, cy);
    e[1] = cross(cx, cy, ax, ay);
    e[2] = cross(ax, ay, bx, by);
}

extern "C" __global__ void clear_cells(u64 *cells, int size)
{
    int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x < size && y < size)
        cells[((u64)blockIdx.z * size + y) * size + x] = 0;
}

// A cell is 1 / depth as the bits of a positive float, which are ordered like it, over the complement of the index.
extern "C" __global__ void rasterize(const float *points, const float *depth, const int *triangles, int num_vertices,
                                     int num_triangles, int size, u64 *cells)
{
    int t = blockIdx.x * blockDim.x + threadIdx.x;
    if (t >= num_triangles)
        return;
    u64 face = blockIdx.z;
    points += 2 * face * num_vertices;
    depth += face * num_vertices;
    Corner a = corner(points, depth, triangles[3 * t]);
    Corner b = corner(points, depth, triangles[3 * t + 1]);
    Corner c = corner(points, depth, triangles[3 * t + 2]);
    if (a.inverse == 0.0 || b.inverse == 0.0 || c.inverse == 0.0)
        return;
    double low_x = ceil(least(a.x, b.x, c.x)), high_x = floor(most(a.x, b.x, c.x));
    double low_y = ceil(least(a.y, b.y, c.y)), high_y = floor(most(a.y, b.y, c.y));
    int left = low_x > 0.0 ? (int)low_x : 0, right = high_x < size - 1 ? (int)high_x : size - 1;
    int top = low_y > 0.0 ? (int)low_y : 0, bottom = high_y < size - 1 ? (int)high_y : size - 1;
    if (left > right || top > bottom)
        return;
    double area = cross(b.x - a.x, b.y - a.y, c.x - a.x, c.y - a.y);
    if (!(fabs(area) >= MIN_AREA))
        return;
    double side = area > 0.0 ? 1.0 : -1.0, over = 1.0 / area;
    for (int y = top + (int)threadIdx.y; y <= bottom; y += blockDim.y)
        for (int x = left; x <= right; ++x) {
            double e[3];
            products(a, b, c, x, y, e);
            if (!(side * e[0] >= 0.0 && side * e[1] >= 0.0 && side * e[2] >= 0.0))
                continue;
            float inverse = (float)((e[0] * a.inverse + e[1] * b.inverse + e[2] * c.inverse) * over);
            u64 cell = (u64)__float_as_uint(inverse) << 32 | (0xffffffffu - (u32)t);
            u64 *place = cells + (face * size + y) * size + x;
            if (cell > *place)  // only ever grows: a stale value costs an atomic, nothing else
                atomicMax(place, cell);
        }
}

// values (faces, num_vertices, num_values) -> picture (faces, num_values, S, S) and seen (faces, S, S), -1 for nothing.
extern "C" __global__ void shade(const u64 *cells, const float *points, const float *depth, const int *triangles,
                                 const float *values, int num_vertices, int num_values, int size, int *seen,
                                 float *picture)
{
    int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x >= size || y >= size)
        return;
    u64 face = blockIdx.z, pixel = (u64)y * size + x, pixels = (u64)size * size;
    u64 cell = cells[face * pixels + pixel];
    int t = cell == 0 ? -1 : (int)(0xffffffffu - (u32)cell);
    seen[face * pixels + pixel] = t;
    picture += face * num_values * pixels + pixel;
    if (t < 0) {
        for (int n = 0; n < num_values; ++n)
            picture[n * pixels] = 0.0f;
        return;
    }
    points += 2 * face * num_vertices;
    depth += face * num_vertices;
    int i = triangles[3 * t], j = triangles[3 * t + 1], k = triangles[3 * t + 2];
    Corner a = corner(points, depth, i), b = corner(points, depth, j), c = corner(points, depth, k);
    double e[3];
    products(a, b, c, x, y, e);
    double wa = e[0] * a.inverse, wb = e[1] * b.inverse, wc = e[2] * c.inverse, over = 1.0 / (wa + wb + wc);
    const float *at = values + face * num_vertices * num_values;
    for (int n = 0; n < num_values; ++n)
        picture[n * pixels] = (float)((wa * at[(u64)i * num_values + n] + wb * at[(u64)j * num_values + n] +
                                       wc * at[(u64)k * num_values + n]) * over);
}

// Adds what every pixel passes back to doubles that begin as 0. Sums of atomics are rounded in the order of arrival.
extern "C" __global__ void shade_gradient(const int *seen, const float *points, const float *depth,
                                          const int *triangles, const float *values, const float *gradient,
                                          int num_vertices, int num_values, int size, double *d_points,
                                          double *d_depth, double *d_values)
{
    int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x >= size || y >= size)
        return;
    u64 face = blockIdx.z, pixel = (u64)y * size + x, pixels = (u64)size * size;
    int t = seen[face * pixels + pixel];
    if (t < 0)
        return;
    points += 2 * face * num_vertices;
    depth += face * num_vertices;
    d_points += 2 * face * num_vertices;
    d_depth += face * num_vertices;
    int corners[3] = {triangles[3 * t], triangles[3 * t + 1], triangles[3 * t + 2]};
    Corner a = corner(points, depth, corners[0]), b = corner(points, depth, corners[1]);
    Corner c = corner(points, depth, corners[2]);
    double e[3], share[3], weight[3], toward[3] = {0.0, 0.0, 0.0};
    double inverse[3] = {a.inverse, b.inverse, c.inverse};
    products(a, b, c, x, y, e);
    for (int n = 0; n < 3; ++n)
        share[n] = e[n] * inverse[n];
    double over = 1.0 / (share[0] + share[1] + share[2]), mean = 0.0;
    for (int n = 0; n < 3; ++n)
        weight[n] = share[n] * over;
    gradient += face * num_values * pixels + pixel;
    for (int value = 0; value < num_values; ++value) {
        double g = gradient[value * pixels];
        for (int n = 0; n < 3; ++n) {
            u64 at = (face * num_vertices + corners[n]) * num_values + value;
            atomicAdd(d_values + at, weight[n] * g);
            toward[n] += g * values[at];
        }
    }
    for (int n = 0; n < 3; ++n)
        mean += weight[n] * toward[n];
    double to_e[3];
    for (int n = 0; n < 3; ++n) {
        double to_share = (toward[n] - mean) * over;
        atomicAdd(d_depth + corners[n], -to_share * share[n] * inverse[n]);
        to_e[n] = to_share * inverse[n];
    }
    double ax = a.x - x, bx = b.x - x, cx = c.x - x, ay = a.y - y, by = b.y - y, cy = c.y - y;
    atomicAdd(d_points + 2 * corners[0], to_e[2] * by - to_e[1] * cy);
    atomicAdd(d_points + 2 * corners[0] + 1, to_e[1] * cx - to_e[2] * bx);
    atomicAdd(d_points + 2 * corners[1], to_e[0] * cy - to_e[2] * ay);
    atomicAdd(d_points + 2 * corners[1] + 1, to_e[2] * ax - to_e[0] * cx);
    atomicAdd(d_points + 2 * corners[2], to_e[1] * ay - to_e[0] * by);
    atomicAdd(d_points + 2 * corners[2] + 1, to_e[0] * bx - to_e[1] * ax);
}
