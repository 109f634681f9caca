// Lets g++ compile a .cu file of ours: blocks and threads become loops, one thread after the other. For kernels whose
// threads do not wait for one another.
#include <cmath>
#include <cstddef>
#include <cstring>
#include <utility>

struct Triple { unsigned x, y, z; };
static thread_local Triple threadIdx, blockIdx, blockDim, gridDim;

#define __global__
#define __device__
#define __host__
#define __shared__ static thread_local
#define __forceinline__ inline
#define __restrict__

// One thread at a time, so nothing has to be atomic; this compiler contracts nothing unless it is told to.
template <typename Value>
static inline Value atomicMax(Value *place, Value value)
{
    Value before = *place;
    *place = value > before ? value : before;
    return before;
}

template <typename Value>
static inline Value atomicAdd(Value *place, Value value)
{
    Value before = *place;
    *place = before + value;
    return before;
}

static inline double __dmul_rn(double a, double b) { return a * b; }
static inline double __dsub_rn(double a, double b) { return a - b; }

static inline unsigned __float_as_uint(float value)
{
    unsigned bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}

template <typename... Arguments, std::size_t... I>
static void call(void (*kernel)(Arguments...), void **arguments, std::index_sequence<I...>)
{
    kernel(*reinterpret_cast<Arguments *>(arguments[I])...);
}

// The arguments come as the driver's launch function takes them: an array of addresses of the values.
template <typename... Arguments>
static void run_on_host(void (*kernel)(Arguments...), const unsigned *grid, const unsigned *block, void **arguments)
{
    gridDim = {grid[0], grid[1], grid[2]};
    blockDim = {block[0], block[1], block[2]};
    for (blockIdx.z = 0; blockIdx.z < grid[2]; ++blockIdx.z)
        for (blockIdx.y = 0; blockIdx.y < grid[1]; ++blockIdx.y)
            for (blockIdx.x = 0; blockIdx.x < grid[0]; ++blockIdx.x)
                for (threadIdx.z = 0; threadIdx.z < block[2]; ++threadIdx.z)
                    for (threadIdx.y = 0; threadIdx.y < block[1]; ++threadIdx.y)
                        for (threadIdx.x = 0; threadIdx.x < block[0]; ++threadIdx.x)
                            call(kernel, arguments, std::index_sequence_for<Arguments...>{});
}
