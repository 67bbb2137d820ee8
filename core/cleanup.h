/* core/cleanup.h - scope-bound ownership (gcc and clang). */
#pragma once

#define CLEANUP(fn) __attribute__((cleanup(fn)))

/* Defines fn##p(T **) for CLEANUP(); fn must accept NULL. */
#define CLEANUP_FREEP(T, fn)           \
    static inline void fn##p(T **slot) \
    {                                  \
        fn(*slot);                     \
    }                                  \
    _Static_assert(1, "swallow the semicolon")

/* Moves a pointer out of its owner. */
#define TAKE(ptr)                       \
    __extension__({                     \
        __typeof__(ptr) taken_ = (ptr); \
        (ptr) = NULL;                   \
        taken_;                         \
    })
