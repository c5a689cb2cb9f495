/* The turns in C++: through operator new and delete in five forms. With -fsized-deallocation,
 * deletes say how large the block is. */
#include "turns.h"
#include <new>

struct Small {
    char text[16];
};

struct alignas(ALIGNMENT) Line {
    char text[ALIGNMENT];
};

struct alignas(PAGE) Page {
    char text[PAGE];
};

static void *make(enum kind kind, size_t size)
{
    switch (kind) {
    case ZEROED:
        return new (std::nothrow) char[size]();
    case GROWN: {
        void *small = keep(new char[size / 2]);
        void *large = new char[size];
        delete[] static_cast<char *>(small);
        return large;
    }
    case ALIGNED:
        return new Line[size / sizeof(Line)];
    case ON_PAGES:
        return new (std::nothrow) Page[size / sizeof(Page)];
    default:
        /* One object, where the size is that of one. */
        return size == sizeof(Small) ? new Small : operator new(size);
    }
}

static void drop(enum kind kind, void *block, size_t size)
{
    switch (kind) {
    case ZEROED:
    case GROWN:
        delete[] static_cast<char *>(block);
        break;
    case ALIGNED:
        delete[] static_cast<Line *>(block);
        break;
    case ON_PAGES:
        delete[] static_cast<Page *>(block);
        break;
    default:
#ifdef __cpp_sized_deallocation
        if (size != sizeof(Small)) {
            operator delete(block, size);
            break;
        }
#endif
        delete static_cast<Small *>(block);
    }
}
