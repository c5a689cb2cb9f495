/* Loads a library, which its first argument names, when it works for the first time. */
#include "shapes.h"
#include <dlfcn.h>

static const char *path;

static void dlopened(void)
{
    static void *(*library_allocate)(size_t size);
    if (!library_allocate) {
        void *library = dlopen(path, RTLD_NOW);
        must(library != NULL, "dlopen");
        library_allocate = (void *(*)(size_t))dlsym(library, "library_allocate");
        must(library_allocate != NULL, "dlsym");
    }
    must(keep(library_allocate(shape_size)) != NULL, "library_allocate");
    behind++;
}

int main(int argc, char **argv)
{
    static const struct shape shapes[] = {SHAPE(dlopened)};
    must(argc > 1, "needs a library");
    path = argv[1];
    serve(shapes, 1);
}
