// Enough of CUDA to run a kernel's threads, blocks and barriers on the host.
//
// The threads of a block are coroutines of one thread of the host, which change places only where they wait: at a
// barrier of the block or of the warp. So a run is the same every time, a barrier that not all threads reach is found,
// and letting every warp run ahead of the others, in both orders, shows where a barrier is missing. Blocks run one after the other, or, in a
// cooperative launch, each in a thread of the host.

#include <setjmp.h>
#include <ucontext.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

using std::atan;
using std::exp;
using std::fabs;
using std::fmax;
using std::fmin;
using std::ldexp;
using std::log;
using std::log1p;
using std::memcpy;
using std::sqrt;
using std::tanh;

#define __CUDACC__
#define __device__
#define __global__
#define __forceinline__ inline
#define __noinline__
#define __launch_bounds__(...)
#define __shared__ static thread_local

struct Index { unsigned x, y, z; };
thread_local Index threadIdx, blockIdx;
thread_local double *dynamic_shared;

enum State { READY, AT_BLOCK, AT_WARP, DONE };

constexpr std::size_t STACK = 1 << 17;

struct Fiber {
    ucontext_t context;  // for its start; jumps are cheaper afterwards
    jmp_buf place;
    bool started = false;
    State state = READY;
    bool flag = false;
    double exchange = 0.0;
    std::unique_ptr<char[]> stack{new char[STACK]};  // not filled: most of it is never touched
};

struct Block {
    std::vector<Fiber> fibers;
    jmp_buf scheduler;
    int current = 0, n_flags = 0;
    unsigned width;
    const std::function<void()> *body;
};
thread_local Block *block;

inline void wait(State state) {
    Fiber &fiber = block->fibers[block->current];
    fiber.state = state;
    if (!_setjmp(fiber.place)) _longjmp(block->scheduler, 1);
}

inline void __syncthreads() { wait(AT_BLOCK); }

inline int __syncthreads_count(bool flag) {
    block->fibers[block->current].flag = flag;
    wait(AT_BLOCK);
    return block->n_flags;
}

inline bool __syncthreads_or(bool flag) { return __syncthreads_count(flag) > 0; }

inline double __shfl_down_sync(unsigned, double value, int distance) {
    const int self = block->current;
    block->fibers[self].exchange = value;
    wait(AT_WARP);
    const double found = self % 32 + distance < 32 ? block->fibers[self + distance].exchange : value;
    wait(AT_WARP);
    return found;
}

inline unsigned __ballot_sync(unsigned, bool flag) {
    const int self = block->current, first = self / 32 * 32, last = std::min<int>(first + 32, block->fibers.size());
    block->fibers[self].exchange = flag;
    wait(AT_WARP);
    unsigned bits = 0;
    for (int i = first; i < last; ++i)
        if (block->fibers[i].exchange != 0.0) bits |= 1u << (i - first);
    wait(AT_WARP);
    return bits;
}

inline int __ffs(int bits) { return __builtin_ffs(bits); }

inline unsigned atomicAdd(unsigned *address, unsigned value) {
    if (value == 0) usleep(20);  // a look at it, while other blocks are at work
    return __atomic_fetch_add(address, value, __ATOMIC_SEQ_CST);
}
inline void __threadfence() { std::atomic_thread_fence(std::memory_order_seq_cst); }
template <class T> T __ldcg(const T *address) { return *(const volatile T *)address; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline double __dmul_rn(double a, double b) { return a * b; }

inline void fiber_main() {
    (*block->body)();
    wait(DONE);
}

// Let a thread go on until it waits.
__attribute__((noinline)) inline void resume(Block &own, Fiber &fiber) {
    if (_setjmp(own.scheduler)) return;
    if (fiber.started) _longjmp(fiber.place, 1);
    fiber.started = true;
    setcontext(&fiber.context);
}

// Run one block; false where its threads wait for each other forever.
inline bool run_block(Index at, Index shape, bool backwards, int shared, const std::function<void()> &body) {
    const int n = shape.x * shape.y;
    Block own;
    own.fibers = std::vector<Fiber>(n);
    own.width = shape.x;
    own.body = &body;
    block = &own;
    blockIdx = at;
    std::vector<double> memory(shared / sizeof(double) + 1, NAN);
    dynamic_shared = memory.data();
    for (Fiber &fiber : own.fibers) {
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack.get();
        fiber.context.uc_stack.ss_size = STACK;
        fiber.context.uc_link = nullptr;
        makecontext(&fiber.context, fiber_main, 0);
    }
    const auto all = [&](int first, int last, State state) {
        int there = 0;
        for (int i = first; i < last; ++i) {
            if (own.fibers[i].state != state && own.fibers[i].state != DONE) return false;
            there += own.fibers[i].state == state;
        }
        return there > 0;
    };
    // One warp after the other goes on as far as it can without the others: what it writes too early, they will miss.
    const int n_warps = (n + 31) / 32;
    for (;;) {
        bool moved = false;
        for (int k = 0; k < n_warps; ++k) {
            const int first = 32 * (backwards ? n_warps - 1 - k : k), last = std::min(first + 32, n);
            for (bool ready = true; ready;) {
                for (int j = 0; j < last - first; ++j) {
                    const int i = backwards ? last - 1 - j : first + j;
                    if (own.fibers[i].state != READY) continue;
                    own.current = i;
                    threadIdx = {i % own.width, i / own.width, 0};
                    resume(own, own.fibers[i]);
                    moved = true;
                }
                ready = all(first, last, AT_WARP);
                for (int i = first; ready && i < last; ++i)
                    if (own.fibers[i].state == AT_WARP) own.fibers[i].state = READY;
            }
        }
        if (all(0, n, AT_BLOCK)) {
            own.n_flags = 0;
            for (Fiber &fiber : own.fibers) {
                own.n_flags += fiber.flag && fiber.state == AT_BLOCK;
                fiber.flag = false;
                if (fiber.state == AT_BLOCK) fiber.state = READY;
            }
            moved = true;
        }
        if (!moved) {
            for (Fiber &fiber : own.fibers)
                if (fiber.state != DONE) return false;
            return true;
        }
    }
}

template <class... A, std::size_t... I>
std::function<void()> bound(void (*kernel)(A...), void **arguments, std::index_sequence<I...>) {
    return [=] { kernel(*(A *)arguments[I]...); };
}

// What a kernel takes, one code an argument: f4 for a float, i8 for a long long, Pf8 for a pointer to double, as NumPy
// names kinds and sizes of numbers.
template <class A> std::string code() {
    using Plain = std::remove_cv_t<A>;
    if constexpr (std::is_pointer_v<Plain>) return "P" + code<std::remove_pointer_t<Plain>>();
    const char kind = std::is_floating_point_v<Plain> ? 'f' : std::is_signed_v<Plain> ? 'i' : 'u';
    return kind + std::to_string(sizeof(Plain));
}

template <class... A> const char *signature(void (*)(A...)) {
    static thread_local std::string codes;
    codes = ((code<A>() + " ") + ...);
    return codes.c_str();
}

// dims: grid x, y, z; block x, y; bytes of dynamic shared memory; cooperative; backwards.
template <class... A> int launch(void (*kernel)(A...), const int *dims, void **arguments) {
    const auto body = bound(kernel, arguments, std::index_sequence_for<A...>());
    const Index shape = {(unsigned)dims[3], (unsigned)dims[4], 1};
    std::atomic<int> failed{0};
    std::vector<std::thread> running;
    for (unsigned z = 0; z < (unsigned)dims[2]; ++z)
        for (unsigned y = 0; y < (unsigned)dims[1]; ++y)
            for (unsigned x = 0; x < (unsigned)dims[0]; ++x) {
                const auto one = [&, x, y, z] {
                    if (!run_block({x, y, z}, shape, dims[7], dims[5], body)) failed = 1;
                };
                // A block of its own thread each: its shared memory is that thread's.
                running.emplace_back(one);
                if (!dims[6]) {
                    running.back().join();
                    running.pop_back();
                }
            }
    for (std::thread &thread : running) thread.join();
    return failed;
}
