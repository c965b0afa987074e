//! From a kernel file to the text a driver gets: named constants are replaced, marked loops are written out.
//!
//! A kernel file is valid WGSL as it stands. Two things happen to it before it is compiled:
//!
//! 1. *Specialisation.* A top-level line `const TILE_PIXELS = 8u;` is a tunable, and so is `alias Stored = f32;`: what stands
//!    between `=` and `;` is replaced, nothing else. A name that the file does not have is an error. Where a type becomes `f16`, the
//!    text begins with `enable f16;`.
//! 2. *Unrolling.* A loop whose first line ends in `// unroll` is written out once per value of its counter. After that
//!    an array in a function that is only ever indexed by constants is split into scalars, because no driver keeps a
//!    dynamically indexed array in registers:
//!
//! ```text
//! var sum: array<f32, 2>;                         var sum_0: f32; var sum_1: f32;
//! for (var p = 0u; p < 2u; p++) { // unroll   →   { // p = 0u
//!     sum[p] += x[base + p];                          sum_0 += x[base + 0u];
//! }                                               }
//!                                                 { // p = 1u
//!                                                     sum_1 += x[base + 1u];
//!                                                 }
//! ```
//!
//! The bounds of a marked loop and the indices of a split array may use integer literals, the file's own top-level
//! integer constants, counters of enclosing marked loops, `+ - * / %`, parentheses and `u32()`, `i32()`.
//!
//! Where a tensor is larger than a binding, or a concatenation left in its parts, [`in_pieces`] then changes how the text refers to it.

mod pieces;
mod traps;

pub use pieces::{Beside, Pieces, in_pieces};
pub(crate) use traps::trapped;

use std::collections::HashMap;
use std::ops::Range;

use crate::error::{Error, Result};

/// More copies than this of one loop body is a mistake: drivers take time in proportion to the text.
const MAX_COPIES: i64 = 256;

/// Returns the kernel `text` with the right-hand sides of `constants` replaced and its marked loops written out.
///
/// # Errors
///
/// [`Error::Graph`] naming the kernel `path`, if a constant is unknown to the file, is given or declared twice, if a
/// marked loop has no constant bounds, or if an array is indexed outside its length.
///
/// # Examples
///
/// ```
/// let text = "const TILE = 8u;\n";
/// let composed = tilewise::gpu::source::compose("conv2d/forward", text, &[("TILE", "4u".to_string())])?;
/// assert_eq!(composed, "const TILE = 4u;\n");
/// # Ok::<(), tilewise::Error>(())
/// ```
pub fn compose(path: &str, text: &str, constants: &[(&str, String)]) -> Result<String> {
    let specialised = specialise(path, text, constants)?;
    let unrolled = unroll(path, &specialised)?;
    let half = constants.iter().any(|(_, value)| value == "f16");
    Ok(if half { format!("enable f16;\n{unrolled}") } else { unrolled })
}

/// Returns `text` with the right-hand sides of the named top-level `const` and `alias` lines replaced.
///
/// # Errors
///
/// [`Error::Graph`], if the file does not have exactly one line for a name, or a name is given twice.
pub fn specialise(path: &str, text: &str, constants: &[(&str, String)]) -> Result<String> {
    let mut lines: Vec<String> = text.split_inclusive('\n').map(str::to_owned).collect();
    for (position, (name, value)) in constants.iter().enumerate() {
        if constants[..position].iter().any(|(earlier, _)| earlier == name) {
            return Err(problem(path, format!("constant `{name}` is given twice")));
        }
        let mut declarations = lines.iter_mut().filter(|line| declared_name(line) == Some(name));
        let Some(line) = declarations.next() else {
            let known: Vec<&str> = text.lines().filter_map(declared_name).collect();
            return Err(problem(path, format!("no constant `{name}`; the file has {}", known.join(", "))));
        };
        let (Some(equals), Some(end)) = (line.find('='), line.find(';')) else {
            return Err(problem(path, format!("constant `{name}` must be declared on one line")));
        };
        line.replace_range(equals..end, &format!("= {value}"));
        if declarations.next().is_some() {
            return Err(problem(path, format!("constant `{name}` is declared twice")));
        }
    }
    Ok(lines.concat())
}

/// Returns `text` with every loop marked `// unroll` written out, and constantly indexed arrays split into scalars.
///
/// # Errors
///
/// [`Error::Graph`], if a marked loop does not have the form `for (var i = A; i < B; i++ or i += C) { // unroll` with
/// constant `A`, `B`, `C`, or if a split array is indexed outside its length.
pub fn unroll(path: &str, text: &str) -> Result<String> {
    let tokens = tokenise(text);
    let constants = integer_constants(&tokens);
    let expanded = expand(path, &tokens, &constants)?;
    let split = split_arrays(path, expanded, &constants)?;
    Ok(split.iter().map(|token| token.text.as_str()).collect())
}

fn problem(path: &str, problem: String) -> Error {
    Error::Graph { op: "kernel".into(), node: path.into(), problem }
}

/// The name that a top-level line declares; lines inside functions are indented and thereby excluded.
fn declared_name(line: &str) -> Option<&str> {
    let rest = line.strip_prefix("const ").or_else(|| line.strip_prefix("alias "))?;
    let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_')?;
    Some(&rest[..end])
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// An identifier, a keyword or an integer.
    Word,
    /// One character of punctuation.
    Symbol,
    Space,
    Comment,
}

#[derive(Clone, Debug)]
struct Token {
    kind: Kind,
    text: String,
}

impl Token {
    fn new(kind: Kind, text: impl Into<String>) -> Self {
        Self { kind, text: text.into() }
    }

    fn is_code(&self) -> bool {
        matches!(self.kind, Kind::Word | Kind::Symbol)
    }
}

/// Cuts `text` into tokens whose texts put together are `text` again.
fn tokenise(text: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let until = |end: Option<usize>| end.unwrap_or(rest.len());
        let (kind, length) = if rest.starts_with("//") {
            (Kind::Comment, until(rest.find('\n')))
        } else if rest.starts_with("/*") {
            (Kind::Comment, until(rest.find("*/").map(|at| at + 2)))
        } else if first.is_whitespace() {
            (Kind::Space, until(rest.find(|c: char| !c.is_whitespace())))
        } else if is_word(first) {
            (Kind::Word, until(rest.find(|c| !is_word(c))))
        } else {
            (Kind::Symbol, first.len_utf8())
        };
        tokens.push(Token::new(kind, &rest[..length]));
        rest = &rest[length..];
    }
    tokens
}

type Constants = HashMap<String, i64>;

/// The values of the top-level constants that are integers; each may use those above it.
fn integer_constants(tokens: &[Token]) -> Constants {
    let mut constants = Constants::new();
    let code: Vec<&str> = tokens.iter().filter(|token| token.is_code()).map(|token| token.text.as_str()).collect();
    let mut depth = 0_i32;
    for (at, word) in code.iter().enumerate() {
        match *word {
            "{" => depth += 1,
            "}" => depth -= 1,
            "const" if depth == 0 => {
                let statement: Vec<&str> = code[at..].iter().copied().take_while(|word| *word != ";").collect();
                if let Some(equals) = statement.iter().position(|word| *word == "=")
                    && let Some(value) = evaluate(&statement[equals + 1..], &constants)
                {
                    constants.insert(statement[1].to_owned(), value);
                }
            }
            _ => {}
        }
    }
    constants
}

/// The value of an integer expression, or `None` where it is not constant (or does not fit).
fn evaluate(words: &[&str], constants: &Constants) -> Option<i64> {
    let (value, rest) = sum(words, constants)?;
    rest.is_empty().then_some(value)
}

/// `product (('+' | '-') product)*`: the value and what follows it.
fn sum<'a, 'b>(words: &'a [&'b str], constants: &Constants) -> Option<(i64, &'a [&'b str])> {
    let (mut value, mut rest) = product(words, constants)?;
    while let Some(operator @ ("+" | "-")) = rest.first().copied() {
        let (right, after) = product(&rest[1..], constants)?;
        value = if operator == "+" { value.checked_add(right)? } else { value.checked_sub(right)? };
        rest = after;
    }
    Some((value, rest))
}

/// `factor (('*' | '/' | '%') factor)*`: the value and what follows it.
fn product<'a, 'b>(words: &'a [&'b str], constants: &Constants) -> Option<(i64, &'a [&'b str])> {
    let (mut value, mut rest) = factor(words, constants)?;
    while let Some(operator @ ("*" | "/" | "%")) = rest.first().copied() {
        let (right, after) = factor(&rest[1..], constants)?;
        value = match operator {
            "*" => value.checked_mul(right)?,
            "/" => value.checked_div(right)?,
            _ => value.checked_rem(right)?,
        };
        rest = after;
    }
    Some((value, rest))
}

/// A literal, a constant, or a parenthesised expression: the value and what follows it.
fn factor<'a, 'b>(words: &'a [&'b str], constants: &Constants) -> Option<(i64, &'a [&'b str])> {
    let (first, rest) = words.split_first()?;
    match *first {
        "(" => {
            let (value, after) = sum(rest, constants)?;
            (*after.first()? == ")").then(|| (value, &after[1..]))
        }
        "u32" | "i32" if rest.first() == Some(&"(") => factor(rest, constants),
        literal if literal.starts_with(|c: char| c.is_ascii_digit()) => {
            let digits = literal.trim_end_matches(['u', 'i']);
            Some((digits.parse().ok()?, rest))
        }
        name => Some((*constants.get(name)?, rest)),
    }
}

/// A loop marked `// unroll`, as positions in the token list.
struct MarkedLoop {
    counter: String,
    /// The suffix that gives a literal the counter's type.
    suffix: &'static str,
    values: Vec<i64>,
    /// The tokens between the braces, without the mark.
    body: Range<usize>,
}

/// Writes out the marked loops in `tokens`, outer ones first, so that inner bounds may use outer counters.
fn expand(path: &str, tokens: &[Token], constants: &Constants) -> Result<Vec<Token>> {
    let mut output = Vec::with_capacity(tokens.len());
    let mut at = 0;
    while at < tokens.len() {
        let Some(marked) = marked_loop(path, tokens, at, constants)? else {
            output.push(tokens[at].clone());
            at += 1;
            continue;
        };
        for (copy, value) in marked.values.iter().enumerate() {
            let literal = format!("{value}{}", marked.suffix);
            if copy > 0 {
                // The indentation of the line the loop stands on.
                output.extend(at.checked_sub(1).map(|before| tokens[before].clone()));
            }
            output.push(Token::new(Kind::Symbol, "{"));
            output.push(Token::new(Kind::Comment, format!(" // {} = {literal}", marked.counter)));
            let body = substitute(&tokens[marked.body.clone()], &marked.counter, &literal, copy == 0);
            output.extend(expand(path, &body, constants)?);
            output.push(Token::new(Kind::Symbol, "}"));
        }
        at = marked.body.end + 1;
    }
    Ok(output)
}

/// The marked loop that starts at `at`, if one does.
fn marked_loop(path: &str, tokens: &[Token], at: usize, constants: &Constants) -> Result<Option<MarkedLoop>> {
    if tokens[at].text != "for" {
        return Ok(None);
    }
    let unbalanced = || problem(path, "a `for` loop without its closing bracket".into());
    let open = next_code(tokens, at + 1).ok_or_else(unbalanced)?;
    let close = matching(tokens, open).ok_or_else(unbalanced)?;
    let brace = next_code(tokens, close + 1).ok_or_else(unbalanced)?;
    let mark = brace + 2;
    let is_marked = tokens.get(mark).is_some_and(|token| token.kind == Kind::Comment && token.text == "// unroll")
        && !tokens[brace + 1].text.contains('\n');
    if !is_marked {
        return Ok(None);
    }
    let end = matching(tokens, brace).ok_or_else(unbalanced)?;

    let words: Vec<&str> =
        tokens[open + 1..close].iter().filter(|token| token.is_code()).map(|token| token.text.as_str()).collect();
    let header = || {
        let clauses: Vec<&[&str]> = words.split(|word| *word == ";").collect();
        let [start, limit, step] = clauses[..] else { return None };
        let (counter, start) = match start {
            ["var", counter, "=", start @ ..] | ["var", counter, ":", _, "=", start @ ..] => (*counter, start),
            _ => return None,
        };
        let limit = match limit {
            [name, "<", limit @ ..] if *name == counter => evaluate(limit, constants)?,
            _ => return None,
        };
        let step = match step {
            [name, "+", "+"] if *name == counter => 1,
            [name, "+", "=", step @ ..] if *name == counter => evaluate(step, constants)?,
            _ => return None,
        };
        let unsigned = words[2] == "=" && start.iter().any(|word| word.ends_with('u')) || words[3] == "u32";
        Some((counter, if unsigned { "u" } else { "i" }, evaluate(start, constants)?, limit, step))
    };
    let Some((counter, suffix, start, limit, step)) = header() else {
        return Err(problem(
            path,
            format!(
                "cannot unroll `for ({})`: write `for (var i = A; i < B; i++)` with constant bounds",
                words.join(" ")
            ),
        ));
    };
    if step < 1 || (limit - start) / step > MAX_COPIES {
        return Err(problem(path, format!("cannot unroll the loop over `{counter}`: more than {MAX_COPIES} copies")));
    }
    let values = (start..limit).step_by(step as usize).collect();
    Ok(Some(MarkedLoop { counter: counter.to_owned(), suffix, values, body: mark + 1..end }))
}

/// The body with the counter replaced; comments are kept in the first copy only, marks in every one.
fn substitute(body: &[Token], counter: &str, literal: &str, keep_comments: bool) -> Vec<Token> {
    let mut output: Vec<Token> = Vec::with_capacity(body.len());
    for token in body {
        if token.kind == Kind::Comment && !keep_comments && token.text != "// unroll" {
            continue;
        }
        let is_counter =
            token.kind == Kind::Word && token.text == counter && output.last().is_none_or(|last| last.text != ".");
        output.push(if is_counter { Token::new(Kind::Word, literal) } else { token.clone() });
    }
    output
}

/// The position of the next token from `at` on that is neither space nor comment.
fn next_code(tokens: &[Token], at: usize) -> Option<usize> {
    (at..tokens.len()).find(|&index| tokens[index].is_code())
}

/// The position of the bracket that closes the one at `open`.
fn matching(tokens: &[Token], open: usize) -> Option<usize> {
    let mut depth = 0_usize;
    for (index, token) in tokens.iter().enumerate().skip(open).filter(|(_, token)| token.kind == Kind::Symbol) {
        match token.text.as_str() {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth = depth.checked_sub(1)?,
            _ => {}
        }
        if depth == 0 {
            return Some(index);
        }
    }
    None
}

/// A zero-initialised array in a function, as positions in the token list.
struct ArrayVariable {
    name: String,
    element: String,
    length: i64,
    /// The tokens from `var` to `;`.
    declaration: Range<usize>,
}

impl ArrayVariable {
    /// The name of the variable that takes the place of one element.
    fn scalar(&self, index: i64) -> String {
        format!("{}_{index}", self.name)
    }
}

/// Splits the arrays that only constants index into one scalar variable per element.
fn split_arrays(path: &str, mut tokens: Vec<Token>, constants: &Constants) -> Result<Vec<Token>> {
    let mut at = 0;
    while at < tokens.len() {
        if let Some(array) = array_variable(&tokens, at, constants)
            && let Some(uses) = constant_uses(path, &tokens, &array, constants)?
        {
            for (mut range, index) in uses {
                tokens[range.start] = Token::new(Kind::Word, array.scalar(index));
                // What is left of the access stays as nothing: to move all that follows up, thousands of times, takes long.
                range.start += 1;
                tokens[range].fill(Token::new(Kind::Space, ""));
            }
            let declarations: Vec<String> =
                (0..array.length).map(|index| format!("var {}: {};", array.scalar(index), array.element)).collect();
            tokens.splice(array.declaration, tokenise(&declarations.join(" ")));
        }
        at += 1;
    }
    Ok(tokens)
}

/// The array variable whose declaration starts at `at`: `var a: array<T, N>;` or `var a = array<T, N>();`.
fn array_variable(tokens: &[Token], at: usize, constants: &Constants) -> Option<ArrayVariable> {
    if tokens[at].text != "var" {
        return None;
    }
    let end = (at..tokens.len()).find(|&index| tokens[index].text == ";")?;
    let words: Vec<&str> =
        tokens[at..end].iter().filter(|token| token.is_code()).map(|token| token.text.as_str()).collect();
    let (name, arguments) = match &words[..] {
        ["var", name, ":", "array", "<", arguments @ .., ">"]
        | ["var", name, "=", "array", "<", arguments @ .., ">", "(", ")"] => (*name, arguments),
        _ => return None,
    };
    let comma = arguments.iter().rposition(|word| *word == ",")?;
    let length = evaluate(&arguments[comma + 1..], constants)?;
    let element = arguments[..comma].concat();
    Some(ArrayVariable { name: name.to_owned(), element, length, declaration: at..end + 1 })
}

/// The tokens of `a[index]` and the index.
type Access = (Range<usize>, i64);

/// Where the array is used and with which index, or `None` if any use is not an access with a constant index.
fn constant_uses(
    path: &str,
    tokens: &[Token],
    array: &ArrayVariable,
    constants: &Constants,
) -> Result<Option<Vec<Access>>> {
    let scalars: Vec<String> = (0..array.length).map(|index| array.scalar(index)).collect();
    let mut taken = None;
    let mut uses = Vec::new();
    let mut depth = 0_i32;
    let mut at = array.declaration.end;
    while at < tokens.len() && depth >= 0 {
        let token = &tokens[at];
        match token.text.as_str() {
            "{" => depth += 1,
            "}" => depth -= 1,
            text if text.starts_with(&array.name) && scalars.iter().any(|name| name == text) => taken = Some(text),
            text if text == array.name && token.kind == Kind::Word && tokens[at - 1].text != "." => {
                let Some(open) = next_code(tokens, at + 1).filter(|&next| tokens[next].text == "[") else {
                    return Ok(None);
                };
                let Some(close) = matching(tokens, open) else { return Ok(None) };
                let words: Vec<&str> =
                    tokens[open + 1..close].iter().filter(|t| t.is_code()).map(|t| t.text.as_str()).collect();
                let Some(index) = evaluate(&words, constants) else { return Ok(None) };
                if !(0..array.length).contains(&index) {
                    let text = format!("`{}[{index}]` is outside its {} elements", array.name, array.length);
                    return Err(problem(path, text));
                }
                uses.push((at..close + 1, index));
                at = close;
            }
            _ => {}
        }
        at += 1;
    }
    if let Some(taken) = taken {
        let text = format!("array `{}` cannot be split: the name `{taken}` is taken", array.name);
        return Err(problem(path, text));
    }
    Ok(Some(uses))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compact(text: &str) -> String {
        let code: Vec<String> = tokenise(text).into_iter().filter(Token::is_code).map(|t| t.text).collect();
        code.join(" ")
    }

    fn unrolled(text: &str) -> String {
        compact(&unroll("test", text).unwrap())
    }

    #[track_caller]
    fn assert_unrolls(text: &str, expected: &str) {
        assert_eq!(unrolled(text), compact(expected));
    }

    #[track_caller]
    fn assert_fails(result: Result<String>, message: &str) {
        assert_eq!(result.unwrap_err().to_string(), message);
    }

    #[test]
    fn specialisation_replaces_one_right_hand_side_and_nothing_else() {
        let text = "const TILE = 8u; // pixels\nconst TILE_X: u32 = TILE;\nconst SOFT = true;\nfn f() {}\n";
        let replaced = specialise("k", text, &[("TILE", "4u".into()), ("SOFT", "false".into())]).unwrap();
        assert_eq!(replaced, "const TILE = 4u; // pixels\nconst TILE_X: u32 = TILE;\nconst SOFT = false;\nfn f() {}\n");
        let replaced = specialise("k", text, &[("TILE_X", "1u".into())]).unwrap();
        assert!(replaced.contains("const TILE_X: u32 = 1u;"));
        assert_eq!(specialise("k", text, &[]).unwrap(), text);
    }

    #[test]
    fn a_type_that_becomes_f16_is_enabled() {
        let text = "alias Stored = f32;\nalias Stored4 = vec4<Stored>;\n";
        let replaced = compose("k", text, &[("Stored", "f16".into())]).unwrap();
        assert_eq!(replaced, "enable f16;\nalias Stored = f16;\nalias Stored4 = vec4<Stored>;\n");
        assert_eq!(compose("k", text, &[]).unwrap(), text);
    }

    #[test]
    fn specialisation_names_the_kernel_and_the_constant_it_misses() {
        let one = |name: &'static str| vec![(name, "1u".to_string())];
        let text = "const A = 1u;\nconst B = 2u;\nfn f() {\n    const C = 3u;\n}\n";
        assert_fails(
            specialise("conv2d/forward", text, &one("C")),
            "kernel `conv2d/forward`: no constant `C`; the file has A, B",
        );
        assert_fails(
            specialise("k", "const A = 1u;\nconst A = 2u;\n", &one("A")),
            "kernel `k`: constant `A` is declared twice",
        );
        assert_fails(specialise("k", text, &[one("A"), one("A")].concat()), "kernel `k`: constant `A` is given twice");
        assert_fails(
            specialise("k", "const A =\n  1u;\n", &one("A")),
            "kernel `k`: constant `A` must be declared on one line",
        );
    }

    #[test]
    fn unmarked_text_comes_back_unchanged() {
        let text = "// a comment\nfn f() {\n  for (var i = 0u; i < n; i++) { a[i] += 1.0e-3f; /* b */ }\n}\n";
        assert_eq!(unroll("k", text).unwrap(), text);
    }

    #[test]
    fn a_marked_loop_is_written_out_and_its_array_split() {
        assert_unrolls(
            "const N = 2u;
            fn f() {
                var sum: array<f32, N>;
                for (var p = 0u; p < N; p++) { // unroll
                    sum[p] += x[base + p] * s.p; // a comment
                }
                y[0] = sum[0] + sum[N - 1u];
            }",
            "const N = 2u;
            fn f() {
                var sum_0: f32; var sum_1: f32;
                { sum_0 += x[base + 0u] * s.p; }
                { sum_1 += x[base + 1u] * s.p; }
                y[0] = sum_0 + sum_1;
            }",
        );
    }

    #[test]
    fn nested_loops_see_the_outer_counter_and_steps_and_types() {
        assert_unrolls(
            "fn f() {
                for (var i = 1; i < 4; i += 2) { // unroll
                    for (var j: u32 = 0; j < (i32(i) + 1) / 2; j++) { // unroll
                        g(i, j);
                    }
                }
            }",
            "fn f() { { { g(1i, 0u); } } { { g(3i, 0u); } { g(3i, 1u); } } }",
        );
    }

    #[test]
    fn comments_are_printed_once_and_each_copy_says_its_value() {
        let text = "fn f() {\n    for (var i = 0u; i < 2u; i++) { // unroll\n        g(i); // why\n    }\n}\n";
        let expected =
            "fn f() {\n    { // i = 0u\n        g(0u); // why\n    }\n    { // i = 1u\n        g(1u); \n    }\n}\n";
        assert_eq!(unroll("k", text).unwrap(), expected);
    }

    #[test]
    fn an_array_with_any_other_use_stays_an_array() {
        for usage in ["a[i]", "h(a)", "h(&a)", "a[N]"] {
            let text = format!("fn f() {{ var a: array<f32, 4>; a[1] = 2.0; g({usage}); }}");
            assert_eq!(unroll("k", &text).unwrap(), text);
        }
        let workgroup = "var<workgroup> a: array<f32, 4>; fn f() { a[0] = 1.0; }";
        assert_eq!(unroll("k", workgroup).unwrap(), workgroup);
    }

    #[test]
    fn an_array_ends_with_its_block() {
        assert_unrolls(
            "fn f() { { var a = array<vec2<f32>, 1>(); a[0].x = 1.0; } { var a: array<f32, 1>; a[0] = 1.0; } let b = a[0]; }",
            "fn f() { { var a_0: vec2<f32>; a_0.x = 1.0; } { var a_0: f32; a_0 = 1.0; } let b = a[0]; }",
        );
    }

    #[test]
    fn what_cannot_be_unrolled_is_refused() {
        assert_fails(
            unroll("k", "fn f() { for (var i = 0u; i < n; i++) { // unroll\n } }"),
            "kernel `k`: cannot unroll `for (var i = 0u ; i < n ; i + +)`: write `for (var i = A; i < B; i++)` with constant bounds",
        );
        assert_fails(
            unroll("k", "fn f() { for (var i = 0; i < 9000; i++) { // unroll\n } }"),
            "kernel `k`: cannot unroll the loop over `i`: more than 256 copies",
        );
        assert_fails(
            unroll("k", "fn f() { var a: array<f32, 2>; a[2] = 1.0; }"),
            "kernel `k`: `a[2]` is outside its 2 elements",
        );
        assert_fails(
            unroll("k", "fn f() { var a: array<f32, 2>; let a_1 = 2.0; a[1] = a_1; }"),
            "kernel `k`: array `a` cannot be split: the name `a_1` is taken",
        );
    }

    #[test]
    fn constants_may_be_computed_from_earlier_ones() {
        let tokens = tokenise("const A = 3u; const B: u32 = (A + 1u) * 2u; const C = 1.5; const D = B % 5u / 2u - 1u;");
        let constants = integer_constants(&tokens);
        assert_eq!(constants.get("B"), Some(&8));
        assert_eq!(constants.get("C"), None);
        assert_eq!(constants.get("D"), Some(&0));
    }
}
