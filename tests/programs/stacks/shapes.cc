/* The shapes of C++. */
#include "shapes.h"
#include <algorithm>
#include <functional>
#include <map>
#include <string>
#include <thread>
#include <vector>

namespace shop {

NOINLINE static void new_array()
{
    keep(new char[shape_size]);
    behind++;
}

NOINLINE static void vector_reserve()
{
    auto *letters = new std::vector<char>;
    keep(letters);
    letters->reserve(shape_size);
}

NOINLINE static void string_append()
{
    auto *text = new std::string("a");
    keep(text);
    text->append(shape_size - 2, 'x');
}

NOINLINE static void strdup_from_cxx()
{
    static char text[1 << 17];
    memset(text, 'x', shape_size - 1);
    must(keep(strdup(text)) != nullptr, "strdup");
}

/* A member of a template, called through a table of virtual functions, inlined where it can be. */
template <typename T> class Shelf {
public:
    virtual ~Shelf() = default;
    __attribute__((always_inline)) inline void *put(size_t count) { return room(count); }

private:
    /* In one line: gdb takes lines from where statements begin, which gcc says of the line with the
     * name, and not of the call's. */
    __attribute__((always_inline)) inline void *room(size_t n) { return keep(malloc(n * sizeof(T))); }
};

class Counter {
public:
    virtual ~Counter() = default;
    NOINLINE virtual void *serve(size_t size)
    {
        void *block = shelf.put(size);
        behind++;
        return block;
    }

private:
    Shelf<char> shelf;
};

static Counter counter;
static Counter *volatile any_counter = &counter;

NOINLINE static void inlined()
{
    any_counter->serve(shape_size);
    behind++;
}

NOINLINE static void std_function()
{
    std::function<void(int)> call = [](int more) {
        allocate();
        behind += more;
    };
    call(behind);
    behind++;
}

NOINLINE static void sort_comparator()
{
    std::vector<int> numbers{2, 1};
    std::sort(numbers.begin(), numbers.end(), [](int left, int right) {
        if (left == 1 && right == 2)
            allocate();
        return left < right;
    });
    behind += numbers[0];
}

/* Allocates while an exception goes through. */
class AtExit {
public:
    NOINLINE ~AtExit()
    {
        allocate();
    }
};

NOINLINE static void throws(int what)
{
    if (what)
        throw what;
}

NOINLINE static int cleans_up(int what)
{
    AtExit at_exit;
    throws(what);
    return behind;
}

NOINLINE static void in_destructor()
{
    try {
        behind += cleans_up(1);
    } catch (int what) {
        behind += what;
    }
}

NOINLINE static void in_catch()
{
    try {
        throws(1);
    } catch (int what) {
        allocate();
        behind += what;
    }
}

NOINLINE static void std_thread()
{
    std::thread([] { vector_reserve(); }).join();
}

} // namespace shop

using namespace shop;

int main()
{
    static const struct shape shapes[] = {
        SHAPE(new_array),
        SHAPE(vector_reserve),
        SHAPE(string_append),
        SHAPE(strdup_from_cxx),
        SHAPE(inlined),
        SHAPE(std_function),
        SHAPE(sort_comparator),
        SHAPE(in_destructor),
        SHAPE(in_catch),
        SHAPE(std_thread),
    };
    serve(shapes, sizeof shapes / sizeof shapes[0]);
}
