/* The hook of liballoc_hook.c. */
#include <stddef.h>
#ifdef __cplusplus
extern "C"
#endif
extern void (*alloc_hook)(size_t size);
