# Run by gdb, which is attached to a target: writes the stack of the first malloc of each size in
# SIZES (comma-separated), until a malloc of END bytes. One line of JSON for each:
#
#     stack {"size": N, "outermost": true, "frames": [{"pc", "kind", "function", "file", "line"}]}
#
# Leaf first, beginning with malloc's caller. `outermost`: gdb knows that the thread starts there,
# and did not merely fail to go on.

import json
import os

import gdb

KINDS = {
    gdb.NORMAL_FRAME: "normal",
    gdb.INLINE_FRAME: "inline",
    gdb.TAILCALL_FRAME: "tailcall",
    gdb.SIGTRAMP_FRAME: "signal",
}


def say(line):
    rest = (line + "\n").encode()
    while rest:
        # A signal may end a write early: gdb has handlers of its own.
        rest = rest[os.write(1, rest) :]


def stack():
    frames = []
    frame = gdb.newest_frame()
    while frame is not None:
        reason = frame.unwind_stop_reason()
        place = frame.find_sal()
        frames.append(
            {
                "pc": frame.pc(),
                "kind": KINDS[frame.type()],
                "function": frame.name(),
                "file": place.symtab.filename if place.symtab else None,
                "line": place.line,
            }
        )
        frame = frame.older()
    return frames[1:], reason == gdb.FRAME_UNWIND_OUTERMOST


class Malloc(gdb.Breakpoint):
    def __init__(self, sizes, end):
        address = int(gdb.parse_and_eval("(unsigned long)&malloc"))
        # In a debug register. In memory it would look like a probe: a kernel that takes out probes
        # of other traces takes those of the same address out here, where a trace was before.
        super().__init__("*%d" % address, gdb.BP_HARDWARE_BREAKPOINT, internal=True)
        self.sizes = sizes
        self.end = end

    def stop(self):
        size = int(gdb.parse_and_eval("(unsigned long)$rdi"))
        if size in self.sizes:
            self.sizes.remove(size)
            frames, outermost = stack()
            say("stack " + json.dumps({"size": size, "outermost": outermost, "frames": frames}))
        return size == self.end


# Whatever language the target is written in.
gdb.execute("set language c")
gdb.execute("handle all nostop noprint pass")
sizes = {int(size) for size in os.environ["SIZES"].split(",")}
breakpoint = Malloc(sizes, int(os.environ["END"]))
say("ready")
gdb.execute("continue")
breakpoint.delete()
gdb.execute("detach")
