//! A kernel that looks at each of its indices before it uses it: what tests hold a kernel against whose indices nothing else looks at.
//!
//! ```text
//! var<workgroup> tile: array<f32, 64>;                         var<private> index_outside: bool;
//!                                                              fn looked_at(i: u32, length: u32) -> u32 {
//!                                                          →       index_outside = index_outside | (i >= length);
//!                                                                  return i;
//!                                                              }
//! tile[lane] = x[lane + 1u];                                   tile[looked_at(u32(lane), 64)] = x[looked_at(u32(lane + 1u), arrayLength(&x) - 64u)];
//! ```
//!
//! An invocation that ends with an index outside overwrites the last element of the first array that may be written, which is of a guard. Before
//! all else the workgroup's arrays of floats are filled with NaN, so that a kernel that reads what it has not written gives other results.

use super::{Constants, Token, evaluate, integer_constants, matching, next_code, pieces, problem, tokenise};
use crate::error::Result;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::iter::successors;

/// The lengths of an array's levels, as WGSL text.
type Lengths = Vec<String>;

/// Names of what is added.
const ADDED: [&str; 4] = ["index_outside", "looked_at", "note_outside", "fill_workgroup"];

/// Returns a composed kernel that looks at its indices. Behind what each storage binding refers to is a guard of so many elements.
///
/// # Errors
///
/// [`Error::Graph`](crate::Error::Graph) naming the kernel, if it has an index that this does not find, nothing that may be written has a
/// guard, or one of the names is taken.
pub(crate) fn trapped(path: &str, text: &str, guards: &[u64]) -> Result<String> {
    let tokens = tokenise(text);
    if let Some(taken) = tokens.iter().find(|token| ADDED.contains(&&token.text[..])) {
        return Err(problem(path, format!("cannot look at its indices: the name `{}` is taken", taken.text)));
    }
    let constants = integer_constants(&tokens);
    let mut arrays = HashMap::new();
    let mut fills = String::new();
    for Variable { name, words, is_shared } in variables(&tokens) {
        declare(path, &mut arrays, name, &lengths(&words))?;
        if is_shared {
            fills += &fill(name, &words);
        }
    }
    let mut noted = None;
    for declaration in pieces::declarations(&tokens) {
        let Some(&guard) = guards.get(declaration.binding) else { continue };
        let ["var", "<", "storage", ",", access, ">", name, ":", "array", "<", element @ .., ">"] =
            &declaration.words[..]
        else {
            return Err(problem(path, format!("`{}` is no array, so it has no indices", declaration.words.concat())));
        };
        let length = format!("arrayLength(&{name}) - {guard}u");
        declare(path, &mut arrays, name, &[vec![length], lengths(element)].concat())?;
        if *access == "read_write" && guard > 0 && noted.is_none() {
            noted = Some(format!("{name}[arrayLength(&{name}) - 1u] = {}();", element.concat()));
        }
    }
    let Some(noted) = noted else { return Err(problem(path, "nothing that it may write has a guard".into())) };
    let looked = looked_at(&tokens, &arrays, &constants);
    let trapped = format!(
        "{}\nvar<private> index_outside: bool;\n\
         fn looked_at(i: u32, length: u32) -> u32 {{ index_outside = index_outside | (i >= length); return i; }}\n\
         fn note_outside() {{ if index_outside {{ {noted} }} }}\n\
         fn fill_workgroup() {{ {fills}{} }}\n",
        noting(path, &tokenise(&looked))?,
        if fills.is_empty() { "" } else { "workgroupBarrier();" },
    );
    all_are_looked_at(path, &trapped)?;
    Ok(trapped)
}

/// Adds an array to those known by their names, which have to tell them apart.
fn declare<'a>(path: &str, arrays: &mut HashMap<&'a str, Lengths>, name: &'a str, lengths: &Lengths) -> Result<()> {
    if *arrays.entry(name).or_insert_with(|| lengths.clone()) == *lengths {
        return Ok(());
    }
    Err(problem(path, format!("arrays of different lengths have the name `{name}`")))
}

/// The element of an array and its length, from the words of its type: none if that is no array of a length.
fn element_of<'a, 'b>(words: &'b [&'a str]) -> Option<(&'b [&'a str], String)> {
    let ["array", "<", inner @ .., ">"] = words else { return None };
    let mut depth = 0_i32;
    let comma = inner.iter().rposition(|word| {
        depth += i32::from(*word == ">") - i32::from(*word == "<");
        depth == 0 && *word == ","
    })?;
    Some((&inner[..comma], inner[comma + 1..].join(" ")))
}

/// The same of that, of its element, and so on.
fn levels<'a, 'b>(words: &'b [&'a str]) -> impl Iterator<Item = (&'b [&'a str], String)> {
    successors(element_of(words), |(element, _)| element_of(element))
}

/// The lengths of a type's levels, from its words: none if it is no array.
fn lengths(words: &[&str]) -> Lengths {
    levels(words).map(|(_, length)| length).collect()
}

/// What fills an array of this type with NaN, which naga is not to know beforehand, if it is one of floats.
fn fill(name: &str, words: &[&str]) -> String {
    let levels: Vec<_> = levels(words).collect();
    let element = levels.last().map_or(words, |(element, _)| element).concat();
    let is_float = element.contains("f32") || element.starts_with("vec") && element.ends_with('f');
    if !is_float {
        return String::new();
    }
    let (mut text, mut indices) = (String::new(), String::new());
    for (level, (_, length)) in levels.iter().enumerate() {
        let _ = write!(text, "for (var i{level} = 0u; i{level} < u32({length}); i{level}++) {{ ");
        let _ = write!(indices, "[i{level}]");
    }
    let ends = "} ".repeat(levels.len());
    text + &format!("{name}{indices} = {element}(bitcast<f32>(0x7fc00000u | u32(index_outside))); {ends}")
}

/// A variable that is an array of fixed length.
struct Variable<'a> {
    name: &'a str,
    /// Its type.
    words: Vec<&'a str>,
    /// Whether a workgroup shares it.
    is_shared: bool,
}

/// The arrays of fixed length among the variables, in functions or outside: `var x: array<T, N>;` and `var x = array<T, N>();`.
fn variables(tokens: &[Token]) -> Vec<Variable<'_>> {
    let code: Vec<&str> = tokens.iter().filter(|token| token.is_code()).map(|token| token.text.as_str()).collect();
    let declared = (0..code.len()).filter(|&at| code[at] == "var").filter_map(|at| {
        let end = code[at..].iter().position(|word| *word == ";")?;
        let (name, words) = match &code[at..at + end] {
            ["var", "<", "workgroup" | "private", ">", name, ":", words @ ..] | ["var", name, ":", words @ ..] => {
                (*name, words)
            }
            ["var", name, "=", words @ .., "(", ")"] => (*name, words),
            _ => return None,
        };
        let words = words.split(|word| *word == "=").next()?.to_vec();
        Some(Variable { name, words, is_shared: code[at + 2] == "workgroup" })
    });
    declared.filter(|variable| element_of(&variable.words).is_some()).collect()
}

/// The text of these tokens, in which every index of an array is looked at, but for constants where the length is one, too.
fn looked_at(tokens: &[Token], arrays: &HashMap<&str, Lengths>, constants: &Constants) -> String {
    let (mut output, mut at) = (String::new(), 0);
    while let Some(token) = tokens.get(at) {
        output += &token.text;
        at += 1;
        let is_member = at > 1 && tokens[at - 2].text == ".";
        let Some(lengths) = arrays.get(token.text.as_str()).filter(|_| !is_member) else { continue };
        for length in lengths {
            let brackets = next_code(tokens, at).filter(|&open| tokens[open].text == "[");
            let Some((open, close)) = brackets.and_then(|open| Some((open, matching(tokens, open)?))) else { break };
            let words: Vec<&str> = tokens[open + 1..close]
                .iter()
                .filter(|token| token.is_code())
                .map(|token| token.text.as_str())
                .collect();
            let index = looked_at(&tokens[open + 1..close], arrays, constants);
            let is_known = !length.starts_with("arrayLength") && evaluate(&words, constants).is_some();
            let _ = if is_known {
                write!(output, "[{index}]")
            } else {
                write!(output, "[looked_at(u32({index}), {length})]")
            };
            at = close + 1;
        }
    }
    output
}

/// The text with what an invocation notes at its end, wherever that is.
fn noting(path: &str, tokens: &[Token]) -> Result<String> {
    let body = || {
        let main = tokens.iter().position(|token| token.text == "main")?;
        let parameters = matching(tokens, next_code(tokens, main + 1)?)?;
        let open = next_code(tokens, parameters + 1)?;
        Some((open, matching(tokens, open)?))
    };
    let (open, close) = body().ok_or_else(|| problem(path, "it has no `fn main() { … }`".into()))?;
    let mut output = String::new();
    for (at, token) in tokens.iter().enumerate() {
        match token.text.as_str() {
            "return" if at > open && at < close => output += "note_outside(); return",
            "{" if at == open => output += "{ fill_workgroup();",
            "}" if at == close => output += "note_outside(); }",
            text => output += text,
        }
    }
    Ok(output)
}

/// Holds what the text has become against what naga makes of it: each index comes from `looked_at`, but for constants where the length is one, too,
/// which naga itself holds against each other.
fn all_are_looked_at(path: &str, text: &str) -> Result<()> {
    let module = naga::front::wgsl::parse_str(text).map_err(|error| problem(path, error.emit_to_string(text)))?;
    let functions = module.functions.iter().map(|(_, function)| function);
    for function in functions.chain(module.entry_points.iter().map(|entry| &entry.function)) {
        let is_added = function.name.as_deref().is_some_and(|name| ADDED.contains(&name));
        for (_, expression) in function.expressions.iter().filter(|_| !is_added) {
            let (looked, at) = match *expression {
                naga::Expression::Access { index, .. } => (is_looked_at(&module, &function.expressions[index]), index),
                naga::Expression::AccessIndex { base, .. } => (has_length(&module, function, base), base),
                _ => continue,
            };
            if !looked {
                let at = function.expressions.get_span(at).to_range().map_or("", |range| &text[range]);
                return Err(problem(path, format!("an index is of no array that is declared as one: `{at}`")));
            }
        }
    }
    Ok(())
}

/// Whether this is what `looked_at` returns.
fn is_looked_at(module: &naga::Module, index: &naga::Expression) -> bool {
    match *index {
        naga::Expression::CallResult(called) => module.functions[called].name.as_deref() == Some("looked_at"),
        _ => false,
    }
}

/// Whether the number of things in this is known: it is no storage, the length of which the text does not tell, nor may be behind a pointer to some.
fn has_length(module: &naga::Module, function: &naga::Function, base: naga::Handle<naga::Expression>) -> bool {
    let is_pointer = |ty: naga::Handle<naga::Type>| matches!(module.types[ty].inner, naga::TypeInner::Pointer { .. });
    match function.expressions[base] {
        naga::Expression::GlobalVariable(variable) => {
            !matches!(module.global_variables[variable].space, naga::AddressSpace::Storage { .. })
        }
        naga::Expression::FunctionArgument(argument) => !is_pointer(function.arguments[argument as usize].ty),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KERNEL: &str = "const N = 4u;\n\
        @group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;\n\
        @group(0) @binding(1) var<storage, read_write> y: array<f32>;\n\
        var<workgroup> tile: array<array<f32, N + 1u>, 2>;\n\n\
        @compute @workgroup_size(4)\n\
        fn main(@builtin(local_invocation_index) lane: u32) {\n    \
            if lane > 2u { return; }\n    \
            tile[1][lane] = x[lane].y;\n    \
            y[y_at(i32(lane))] += tile[lane][0];\n\
        }\n\n\
        fn y_at(i: i32) -> i32 { return i - i32(y[0]); }\n";

    #[test]
    fn every_index_is_looked_at_and_what_is_outside_noted() {
        let text = trapped("k", KERNEL, &[16, 64]).unwrap();
        for (given, expected) in [
            ("return; }", "if lane > 2u { note_outside(); return; }"),
            ("tile[1]", "tile[1][looked_at(u32(lane), N + 1u)] = x[looked_at(u32(lane), arrayLength(&x) - 16u)].y;"),
            (
                "y[y_at",
                "y[looked_at(u32(y_at(i32(lane))), arrayLength(&y) - 64u)] += tile[looked_at(u32(lane), 2)][0];\nnote_outside(); }",
            ),
            ("y[0]", "return i - i32(y[looked_at(u32(0), arrayLength(&y) - 64u)]); }"),
        ] {
            assert!(text.contains(expected), "{given} becomes {expected} in\n{text}");
        }
        assert!(
            text.ends_with(
                "fn note_outside() { if index_outside { y[arrayLength(&y) - 1u] = f32(); } }\n\
                 fn fill_workgroup() { for (var i0 = 0u; i0 < u32(2); i0++) { for (var i1 = 0u; i1 < u32(N + 1u); i1++) { \
                 tile[i0][i1] = f32(bitcast<f32>(0x7fc00000u | u32(index_outside))); } } workgroupBarrier(); }\n"
            ),
            "{text}"
        );
    }

    #[test]
    fn what_cannot_be_looked_at_is_refused() {
        let of = |text: &str, guards: &[u64]| trapped("k", text, guards).unwrap_err().to_string();
        assert_eq!(of(KERNEL, &[16, 0]), "kernel `k`: nothing that it may write has a guard");
        let vector = KERNEL.replace("x[lane].y", "x[0][lane]");
        assert_eq!(of(&vector, &[16, 64]), "kernel `k`: an index is of no array that is declared as one: `lane`");
        let pointed = KERNEL.replace("x[lane].y", "(x)[5u].y");
        assert_eq!(of(&pointed, &[16, 64]), "kernel `k`: an index is of no array that is declared as one: `x`");
        let twice = format!("{KERNEL}fn f() {{ var tile: array<f32, 3>; }}\n");
        assert_eq!(of(&twice, &[16, 64]), "kernel `k`: arrays of different lengths have the name `tile`");
        let taken = KERNEL.replace("y_at", "looked_at");
        assert_eq!(of(&taken, &[16, 64]), "kernel `k`: cannot look at its indices: the name `looked_at` is taken");
    }
}
