// What the kernels on planes share. No header of the C library is included: NVRTC has none, and the tests compile the
// same text with g++ behind a shim. Places are computed in double, weights and sums in float, as in the numba twins.

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned long long u64;

// A place beyond these is past every picture; conversions to int are then safe.
__device__ inline double between(double low, double value, double high)
{
    return value < low ? low : (value > high ? high : value);
}

__device__ inline int between(int low, int value, int high)
{
    return value < low ? low : (value > high ? high : value);
}

// The Catmull-Rom cubic, in the order of operations of the numba twin.
__device__ inline float cubic(float d)
{
    d = fabsf(d);
    float inner = (1.5f * d - 2.5f) * d * d + 1.0f;
    float outer = ((-0.5f * d + 2.5f) * d - 4.0f) * d + 2.0f;
    return d < 1.0f ? inner : (d < 2.0f ? outer : 0.0f);
}

__device__ inline float tent(float d)
{
    d = 1.0f - fabsf(d);
    return d > 0.0f ? d : 0.0f;
}
