/* A Python extension as people write them: it allocates in C, by itself and through a callback. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdlib.h>

static void *kept;

static PyObject *forget(PyObject *self, PyObject *size)
{
    size_t bytes = PyLong_AsSize_t(size);
    if (PyErr_Occurred())
        return NULL;
    free(kept);
    kept = malloc(bytes);
    (void)self;
    return PyLong_FromVoidPtr(kept);
}

static PyObject *call_back(PyObject *self, PyObject *callable)
{
    (void)self;
    return PyObject_CallNoArgs(callable);
}

static PyMethodDef methods[] = {
    {"forget", forget, METH_O, "Leave so many bytes allocated until the next call."},
    {"call_back", call_back, METH_O, "Call what is given."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "extension", NULL, -1, methods,
    NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit_extension(void)
{
    return PyModule_Create(&module);
}
