# Part of _native.pyx: networks. Models from files or built node by node, sessions that run them.

from libc.stdlib cimport free, malloc

from pconv_ops.network_h cimport *


def operators():
    """Rows of ops.def: name, ints, floats, data (lists of names, as there)."""
    cdef pconv_op_info info
    rows = []
    while pconv_list_op(len(rows), &info):
        rows.append({"name": info.name.decode(), "ints": _names(info.ints), "floats": _names(info.floats),
                     "data": _names(info.data)})
    return rows


cdef list _names(const char* text):
    return [name for name in text.decode().split(",") if name]


cdef tuple _dims(const pconv_shape* shape):
    return tuple([shape.dims[i] for i in range(shape.rank)])


cdef int _fill_shape(dims, pconv_shape* shape) except -1:
    if len(dims) > PCONV_MAX_RANK:
        raise ValueError(f"shape: got {len(dims)} dims, at most {PCONV_MAX_RANK} are allowed")
    shape.rank, shape.step = len(dims), 0
    for i, dim in enumerate(dims):
        shape.dims[i] = dim
    return 0


cdef class _Choices:
    """Choices as the C API takes them; owns their names."""
    cdef pconv_choice* items
    cdef int count
    cdef list names

    def __cinit__(self, choices):
        self.names, self.count = [], len(choices)
        self.items = <pconv_choice*>malloc(max(self.count, 1) * sizeof(pconv_choice))
        if self.items == NULL:
            raise MemoryError
        for i, (node, isa, ukernel, shape) in enumerate(choices):
            self.names += [_c_name("isa", isa), _c_name("ukernel", ukernel)]
            self.items[i].node = node
            self.items[i].isa, self.items[i].ukernel = <const char*>self.names[-2], <const char*>self.names[-1]
            self.items[i].n, self.items[i].h, self.items[i].w = shape

    def __dealloc__(self):
        free(self.items)


cdef class ModelBuilder:
    """Builds a NativeModel: inputs, nodes in an order in which they can run, outputs."""
    cdef pconv_builder* handle

    def __cinit__(self):
        _check(pconv_new_builder(&self.handle))

    def __dealloc__(self):
        pconv_free_builder(self.handle)

    def add_input(self, name, dims, free_dims=0):
        """A value's number. free_dims: bit i allows another dims[i]."""
        cdef pconv_shape shape
        cdef int value = 0
        cdef bytes text = _c_name("name", name)
        _fill_shape(dims, &shape)
        _check(pconv_add_input(self.handle, text, &shape, free_dims, &value))
        return value

    def add_node(self, op, name, inputs, ints, floats, data, fp16=False):
        """A value's number. data: name -> C-contiguous float32 array or PackedConv; fp16: it is rounded to that."""
        cdef pconv_node_desc node
        cdef int value = 0
        cdef const int[::1] input_view = np.array([*inputs, 0], dtype=np.intc)  # never empty
        cdef const int64_t[::1] int_view = np.array([*ints, 0], dtype=np.int64)
        cdef const float[::1] float_view = np.array([*floats, 0], dtype=np.float32)
        cdef bytes op_text = _c_name("op", op), name_text = _c_name("name", name)
        names = [_c_name("data", key) for key in data]
        node.name, node.op = name_text, op_text
        node.inputs, node.n_inputs = &input_view[0], len(inputs)
        node.ints, node.n_ints = &int_view[0], len(ints)
        node.floats, node.n_floats = &float_view[0], len(floats)
        cdef pconv_node_data[5] items  # as many as there are roles
        if len(data) > 5:
            raise ValueError(f"data: got {len(data)} of them, no operator has more than 5")
        for i, item in enumerate(data.values()):
            items[i].name = <const char*>names[i]
            _fill_data(item, fp16 and names[i] in (b"layer", b"weight"), &items[i])
        node.data, node.n_data = items, len(data)
        cdef pconv_status status
        with nogil:
            status = pconv_add_node(self.handle, &node, &value)
        _check(status)
        return value

    def add_output(self, name, int value):
        cdef bytes text = _c_name("name", name)
        _check(pconv_add_output(self.handle, text, value))

    def finish(self, bint single):
        cdef pconv_model* model = NULL
        _check(pconv_finish_model(self.handle, single, &model))
        return NativeModel._own(model)


cdef int _fill_data(item, bint fp16, pconv_node_data* data) except -1:
    cdef uintptr_t address
    data.values = NULL
    data.count = 0
    data.layer = NULL
    data.as_fp16 = fp16
    if isinstance(item, PackedConv):
        data.layer = (<PackedConv>item).handle
        return 0
    if item.dtype != np.float32 or not item.flags.c_contiguous:
        raise TypeError(f"data: expected contiguous float32, got {item.dtype}")
    address = item.ctypes.data
    data.values, data.count = <const float*>address, item.size
    return 0


cdef class NativeModel:
    """A network in the core: immutable, shared by sessions."""
    cdef pconv_model* handle

    def __init__(self):
        if self.handle == NULL:
            raise TypeError("NativeModel: use from_bytes, load or ModelBuilder")

    def __dealloc__(self):
        pconv_free_model(self.handle)

    @staticmethod
    cdef NativeModel _own(pconv_model* handle):
        cdef NativeModel self = NativeModel.__new__(NativeModel)
        self.handle = handle
        return self

    @staticmethod
    def from_bytes(data):
        """Reads the bytes of a model file. PConvFormatError: they break docs/FORMAT.md."""
        cdef const unsigned char[::1] view = memoryview(data).cast("B")
        cdef unsigned char nothing = 0
        cdef const void* start = &nothing
        cdef size_t n = view.shape[0]
        cdef pconv_model* model = NULL
        cdef pconv_status status
        if n > 0:
            start = &view[0]
        with nogil:
            status = pconv_read_model(start, n, &model)
        _check(status)
        return NativeModel._own(model)

    @staticmethod
    def load(bytes path):
        cdef const char* text = path
        cdef pconv_model* model = NULL
        cdef pconv_status status
        with nogil:
            status = pconv_load_model(text, &model)
        _check(status)
        return NativeModel._own(model)

    def to_bytes(self, choices=()):
        """The bytes of a model file with these choices: (node, isa, ukernel, (n, h, w))."""
        cdef _Choices c = _Choices(choices)
        cdef void* start = NULL
        cdef size_t n = 0
        cdef pconv_status status
        with nogil:
            status = pconv_write_model(self.handle, c.items, c.count, &start, &n)
        _check(status)
        try:
            return (<const char*>start)[:n]
        finally:
            pconv_free_bytes(start)

    def save(self, bytes path, choices=()):
        cdef const char* text = path
        cdef _Choices c = _Choices(choices)
        cdef pconv_status status
        with nogil:
            status = pconv_save_model(self.handle, c.items, c.count, text)
        _check(status)

    @property
    def info(self):
        """Counts and sizes, as pconv_model_info has them."""
        cdef pconv_model_info info
        _check(pconv_query_model(self.handle, &info))
        return info

    def inputs(self):
        """(name, shape, free_dims) of every input."""
        cdef pconv_value_info v
        rows = []
        for i in range(self.info["n_inputs"]):
            _check(pconv_get_input(self.handle, i, &v))
            rows.append((v.name.decode(), _dims(&v.shape), v.free_dims))
        return rows

    def outputs(self):
        """(name, shape, value) of every output."""
        cdef pconv_value_info v
        rows = []
        for i in range(self.info["n_outputs"]):
            _check(pconv_get_output(self.handle, i, &v))
            rows.append((v.name.decode(), _dims(&v.shape), v.value))
        return rows

    def choices(self):
        """(node, isa, ukernel, (n, h, w)) of every choice in the file."""
        cdef pconv_choice c
        rows = []
        for i in range(self.info["n_choices"]):
            _check(pconv_get_choice(self.handle, i, &c))
            rows.append((c.node, c.isa.decode(), c.ukernel.decode(), (c.n, c.h, c.w)))
        return rows

    def nodes(self):
        """Rows: name, op, inputs, output (values), shape, ints, floats, data (rows as data() has them)."""
        cdef pconv_node_info n
        rows = []
        for i in range(self.info["n_nodes"]):
            _check(pconv_get_node(self.handle, i, &n))
            rows.append({"name": n.name.decode(), "op": n.op.decode(), "inputs": [n.inputs[k] for k in range(n.n_inputs)],
                         "output": n.output, "shape": _dims(&n.shape), "ints": [n.ints[k] for k in range(n.n_ints)],
                         "floats": [n.floats[k] for k in range(n.n_floats)],
                         "data": [self.data(i, k) for k in range(n.n_data)]})
        return rows

    def data(self, int node, int index):
        """name, bytes in a file, is_fp16, shared_with, and of a tensor count, of a layer conv, n_weights, ..."""
        cdef pconv_data_info d
        _check(pconv_get_data(self.handle, node, index, &d))
        row = {"name": d.name.decode(), "bytes": d.bytes, "is_fp16": bool(d.is_fp16), "shared_with": d.shared_with}
        if not d.has_layer:
            return row | {"count": d.count}
        return row | {"conv": d.layer.conv, "block": d.layer.block, "n_patterns": d.layer.n_patterns,
                      "n_kernels": d.layer.n_kernels * d.layer.block, "n_weights": d.layer.n_weights,
                      "has_bias": bool(d.layer.has_bias)}

    def layer(self, int node):
        """A copy of the packed layer of a `conv` node."""
        cdef pconv_packed* layer = NULL
        _check(pconv_copy_layer(self.handle, node, &layer))
        return PackedConv._own(layer)

    def values(self, int node, int index):
        """A copy of a tensor of a node's data, flat float32."""
        cdef pconv_data_info d
        _check(pconv_get_data(self.handle, node, index, &d))
        if d.has_layer:
            raise ValueError("values: this data is a layer")
        return _copy(d.values, d.count, np.float32)

    def infer_shapes(self, shapes):
        """The shapes of all values, inputs and nodes in order, for inputs of these shapes."""
        cdef int n_inputs = self.info["n_inputs"]
        cdef int n_values = n_inputs + self.info["n_nodes"]
        cdef pconv_shape* found = <pconv_shape*>malloc((n_inputs + n_values) * sizeof(pconv_shape))
        if found == NULL:
            raise MemoryError
        try:
            if len(shapes) != n_inputs:
                raise ValueError(f"inputs: got {len(shapes)}, the network takes {n_inputs}")
            for i, dims in enumerate(shapes):
                _fill_shape(dims, &found[n_values + i])
            _check(pconv_infer_shapes(self.handle, found + n_values, found))
            return [_dims(&found[i]) for i in range(n_values)]
        finally:
            free(found)

    def plan(self, shapes=None, isa=None, choices=()):
        """A session for inputs of these shapes (None: those in the file)."""
        cdef pconv_session_options options
        cdef _Choices c = _Choices(choices)
        cdef bytes name = _c_name("isa", isa)
        cdef pconv_session* session = NULL
        cdef pconv_status status
        cdef int n_inputs = self.info["n_inputs"]
        cdef pconv_shape* inputs = <pconv_shape*>malloc(n_inputs * sizeof(pconv_shape))
        if inputs == NULL:
            raise MemoryError
        try:
            if shapes is None:
                shapes = [dims for _, dims, _ in self.inputs()]
            if len(shapes) != n_inputs:
                raise ValueError(f"inputs: got {len(shapes)}, the network takes {n_inputs}")
            for i, dims in enumerate(shapes):
                _fill_shape(dims, &inputs[i])
            options.inputs = inputs
            options.isa = NULL
            if name is not None:
                options.isa = name
            options.choices, options.n_choices = c.items, c.count
            with nogil:
                status = pconv_plan_model(self.handle, &options, &session)
            _check(status)
        finally:
            free(inputs)
        return NativeSession._own(session, n_inputs, self.info["n_outputs"])


cdef class NativeSession:
    """A model planned for input shapes; runs one call at a time."""
    cdef pconv_session* handle
    cdef const float** inputs
    cdef float** outputs
    cdef int n_inputs, n_outputs
    cdef readonly list output_shapes

    def __init__(self):
        if self.handle == NULL:
            raise TypeError("NativeSession: use NativeModel.plan")

    def __dealloc__(self):
        pconv_free_session(self.handle)
        free(self.inputs)
        free(self.outputs)

    @staticmethod
    cdef NativeSession _own(pconv_session* handle, int n_inputs, int n_outputs):
        cdef NativeSession self = NativeSession.__new__(NativeSession)
        cdef pconv_shape shape
        self.handle, self.n_inputs, self.n_outputs = handle, n_inputs, n_outputs
        self.inputs = <const float**>malloc(n_inputs * sizeof(float*))
        self.outputs = <float**>malloc(n_outputs * sizeof(float*))
        if self.inputs == NULL or self.outputs == NULL:
            raise MemoryError
        self.output_shapes = []
        for i in range(n_outputs):
            _check(pconv_get_session_output(handle, i, &shape))
            self.output_shapes.append(_dims(&shape))
        return self

    def run(self, inputs, outputs, int n_threads=0, step_seconds=None):
        """From contiguous fp32 tensors at addresses `inputs` to those at `outputs`. step_seconds: a float64 array with
        an item for every step, to fill with their times. Releases the GIL. One thread at a time."""
        cdef pconv_session_args args
        cdef double[::1] seconds
        cdef pconv_status status
        cdef int i
        cdef uintptr_t address
        if len(inputs) != self.n_inputs or len(outputs) != self.n_outputs:
            raise ValueError(f"run: got {len(inputs)} inputs and {len(outputs)} outputs, the network has "
                             f"{self.n_inputs} and {self.n_outputs}")
        for i in range(self.n_inputs):
            address = inputs[i]
            self.inputs[i] = <const float*>address
        for i in range(self.n_outputs):
            address = outputs[i]
            self.outputs[i] = <float*>address
        args.inputs, args.outputs, args.n_threads = self.inputs, self.outputs, n_threads
        args.step_seconds = NULL
        if step_seconds is not None:
            seconds = step_seconds
            if seconds.shape[0] != self.info["n_steps"]:
                raise ValueError(f"step_seconds: got {seconds.shape[0]} items, there are {self.info['n_steps']} steps")
            if seconds.shape[0] > 0:
                args.step_seconds = &seconds[0]
        with nogil:
            status = pconv_run_session(self.handle, &args)
        _check(status)

    @property
    def info(self):
        """n_steps, arena_bytes, live_bytes, weight_bytes, scratch_bytes_per_thread, isa."""
        cdef pconv_session_info info
        _check(pconv_query_session(self.handle, &info))
        return {"n_steps": info.n_steps, "arena_bytes": info.arena_bytes, "live_bytes": info.live_bytes,
                "weight_bytes": info.weight_bytes, "scratch_bytes_per_thread": info.scratch_bytes_per_thread,
                "isa": info.isa.decode()}

    def steps(self):
        """Rows in the order in which they run: node, name, op, ukernel (None: no convolution), macs, max_pool (0: not
        pooled), inputs and output: (base, index, offset, shape, step)."""
        cdef pconv_step_info s
        cdef pconv_place place
        rows = []
        for i in range(self.info["n_steps"]):
            _check(pconv_get_step(self.handle, i, &s))
            inputs = []
            for k in range(s.n_inputs):
                _check(pconv_get_step_input(self.handle, i, k, &place))
                inputs.append(_place(&place))
            rows.append({"node": s.node, "name": s.name.decode(), "op": s.op.decode(),
                         "ukernel": s.ukernel.decode() if s.ukernel != NULL else None, "macs": s.macs,
                         "max_pool": s.max_pool,
                         "inputs": inputs, "output": _place(&s.output)})
        return rows


cdef dict _BASES = {PCONV_ARENA: "arena", PCONV_INPUT: "input", PCONV_OUTPUT: "output", PCONV_DATA: "data"}


cdef tuple _place(const pconv_place* place):
    return _BASES[<int>place.base], place.index, place.offset, _dims(&place.shape), place.shape.step
