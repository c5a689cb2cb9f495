//! The names of a plan's functions, by what the kernel half tells of them: a number, or a family.

use leaktrace_ebpf::cookie::{FUNCTION_BITS, Form};

use super::plan::Plan;

/// The functions of a plan, as far as frees are told apart by them.
#[derive(Clone, Debug, Default)]
pub struct Families {
    functions: Vec<Function>,
}

#[derive(Clone, Debug)]
struct Function {
    index: u16,
    family: u8,
    name: String,
    module: String,
}

impl Families {
    /// Those of a plan.
    pub fn of(plan: &Plan) -> Self {
        let mut this = Self::default();
        this.add(plan);
        this
    }

    /// Adds those of a plan for the same process.
    pub fn add(&mut self, plan: &Plan) {
        for probe in &plan.probes {
            let index = probe.function_index & ((1 << FUNCTION_BITS) - 1);
            if self.functions.iter().any(|known| known.index == index) {
                continue;
            }
            self.functions.push(Function {
                index,
                family: probe.implementation << 2 | probe.signature.form as u8,
                name: probe.function.clone(),
                module: probe.file.path.clone(),
            });
        }
    }

    /// The name of a function, and its file.
    pub fn function(&self, index: u16) -> Option<(&str, &str)> {
        let found = self.functions.iter().find(|function| function.index == index)?;
        Some((&found.name, &found.module))
    }

    /// What a family's allocations are known by, and their file.
    pub fn allocator(&self, family: u8) -> Option<(&str, &str)> {
        let mut of_family = self.functions.iter().filter(|function| function.family == family);
        let first = of_family.next()?;
        let name = match family & 3 {
            form if form == Form::Plain as u8 => "malloc",
            form if form == Form::New as u8 => "operator new",
            form if form == Form::NewArray as u8 => "operator new[]",
            // The first of its functions is as good a name as any.
            _ => &first.name,
        };
        Some((name, &first.module))
    }
}
