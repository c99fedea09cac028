# Part of _native.pyx: what this build and this machine have, as lists; the FMA peak.

def version():
    return pconv_version().decode()


def isas():
    """Rows of isas.def in this build, best first: name, features, supported, lanes."""
    cdef pconv_isa_info info
    rows = []
    while pconv_list_isa(len(rows), &info):
        rows.append({"name": info.name.decode(), "features": [f for f in info.features.decode().split(",") if f],
                     "supported": bool(info.supported), "lanes": info.lanes})
    return rows


def current_isa():
    cdef const char* name = NULL
    _check(pconv_get_isa(&name))
    return name.decode()


def ukernels():
    """Rows of the kernel table: name, isa, body, stride, rows, vectors, lanes, block, taps (mask)."""
    cdef pconv_ukernel_info info
    rows = []
    while pconv_list_ukernel(len(rows), &info):
        rows.append({"name": info.name.decode(), "isa": info.isa.decode(), "body": info.body.decode(),
                     "stride": info.stride, "rows": info.rows, "vectors": info.vectors, "lanes": info.lanes,
                     "block": info.block, "taps": info.taps})
    return rows


def patterns():
    """Manifest of 3x3 patterns: (name, mask)."""
    cdef pconv_pattern_info info
    rows = []
    while pconv_list_pattern(len(rows), &info):
        rows.append((info.name.decode(), info.mask))
    return rows


def measure_peak(isa=None, int n_threads=1, int rounds=5):
    """FMA peak in GFLOP/s."""
    cdef double gflops = 0
    isa_bytes = _c_name("isa", isa)
    cdef const char* name = NULL
    if isa is not None:
        name = isa_bytes
    cdef pconv_status status
    with nogil:
        status = pconv_measure_peak(name, n_threads, rounds, &gflops)
    _check(status)
    return gflops
