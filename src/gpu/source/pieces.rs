//! A tensor that is not in one place is bound in pieces: a declaration becomes several, and an access the call of a function that knows
//! which piece an element is in. Kernels do nothing with storage but to index it, and their text is written as if it were whole:
//!
//! ```text
//! @group(0) @binding(0) var<storage, read_write> y: array<f32>;    @group(0) @binding(0) var<storage, read_write> y_0: array<f32>;
//!                                                                  @group(0) @binding(1) var<storage, read_write> y_1: array<f32>;
//!                                                              →   fn load_y(i: u32) -> f32 { … }
//!                                                                  fn store_y(i: u32, value: f32) { … }
//! y[2u * p] += x[p];                                               store_y(2u * p, load_y(2u * p) + (x[p]));
//! ```
//!
//! So it is with what no single binding holds, and with concatenations, which are left in their parts.

use super::{Kind, Token, matching, next_code, problem, tokenise};
use crate::error::Result;
use std::collections::HashSet;
use std::fmt::Write as _;
use std::ops::Range;

/// How what a storage binding of a kernel refers to is bound.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Pieces {
    /// In pieces, each of which but the first begins at one of these places; without any, as a whole.
    From(Vec<u64>),
    /// The like for some of a tensor's images, of which the first begins so far behind where the first piece is bound.
    Images(u64, Vec<u64>),
    /// By the pieces of this earlier binding, which refers to the same.
    Of(usize),
    /// In two tensors.
    Beside(Beside),
}

impl Pieces {
    /// The number of storage buffers that are bound.
    pub fn count(&self) -> usize {
        match self {
            Self::From(places) | Self::Images(_, places) => 1 + places.len(),
            Self::Of(_) => 0,
            Self::Beside(_) => 2,
        }
    }

    /// The pieces of what has this name: when the element `i` is in one, unless it is in an earlier one, and its place there.
    fn choices(&self, name: &str) -> Vec<(Option<String>, String)> {
        match self {
            Self::From(places) => Self::Images(0, places.clone()).choices(name),
            Self::Images(behind, places) => {
                let begins = [0].iter().chain(places).enumerate();
                let choice = |(index, begin)| {
                    let place = match (index, behind) {
                        (0, 1..) => format!("i + {behind}u"),
                        _ => format!("i - {begin}u"),
                    };
                    (places.get(index).map(|end| format!("i < {end}u")), format!("{name}_{index}[{place}]"))
                };
                begins.map(choice).collect()
            }
            Self::Of(_) => vec![],
            Self::Beside(beside) => beside.choices(name).into(),
        }
    }
}

/// Images side by side in the channels, in two tensors: the first channels in the centre of images that may be larger, the others in images as
/// large.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Beside {
    /// How much of a pixel is in the first tensor, and in the second.
    pub channels: [u64; 2],
    /// Rows and columns.
    pub extents: [u64; 2],
    /// Rows and columns of the images in the first tensor.
    pub first_extents: [u64; 2],
}

impl Beside {
    /// As [`Pieces::choices`]. Among larger images a pixel comes later by the columns that these have more, for each row before it, and
    /// by the rows, for each image.
    fn choices(&self, name: &str) -> [(Option<String>, String); 2] {
        let Self { channels: [first, second], extents: [height, width], first_extents } = *self;
        let [rows, columns] = [first_extents[0] - height, first_extents[1] - width];
        let pixel = format!("i / {}u", first + second);
        let channel = format!("i % {}u", first + second);
        let later = |each: u64, much: u64| match much {
            0 => String::new(),
            _ => format!(" + {pixel} / {each}u * {much}u"),
        };
        let place = format!("{pixel}{}{}", later(width, columns), later(height * width, rows * first_extents[1]));
        let corner = rows / 2 * first_extents[1] + columns / 2;
        [
            (Some(format!("{channel} < {first}u")), format!("{name}_0[({place} + {corner}u) * {first}u + {channel}]")),
            (None, format!("{name}_1[{pixel} * {second}u + {channel} - {first}u]")),
        ]
    }
}

/// A storage array that is in pieces.
struct Array<'a> {
    name: &'a str,
    element: String,
    access: &'a str,
    /// The name that its functions have theirs from.
    functions: &'a str,
}

/// The `@group(0) @binding(N)` of a variable, and the words of the declaration behind it.
pub(super) struct Declaration<'a> {
    /// The tokens from `@` to `;`.
    range: Range<usize>,
    /// The first token behind the number of the binding.
    rest: usize,
    pub(super) binding: usize,
    pub(super) words: Vec<&'a str>,
}

/// Returns a composed kernel with its storage bindings in these pieces, whose places are counted in elements. All bindings have to be
/// given, and none of them in pieces leaves the text as it is.
///
/// # Errors
///
/// [`Error::Graph`](crate::Error::Graph) naming the kernel, if it does anything but index what is in pieces, declares bindings alike that
/// refer to the same pieces not alike, or has a name that is to be given.
pub fn in_pieces(path: &str, text: &str, bindings: &[Pieces]) -> Result<String> {
    if bindings.iter().all(|pieces| *pieces == Pieces::From(vec![])) {
        return Ok(text.to_owned());
    }
    let tokens = tokenise(text);
    let declarations = declarations(&tokens);
    let mut arrays: Vec<Option<Array<'_>>> = Vec::new();
    let mut found: Vec<&Declaration<'_>> = declarations.iter().collect();
    found.sort_by_key(|declaration| declaration.binding);
    for (pieces, Declaration { words, .. }) in bindings.iter().zip(found) {
        let array = match &words[..] {
            _ if *pieces == Pieces::From(vec![]) => None,
            ["var", "<", "storage", ",", access, ">", name, ":", "array", "<", element @ .., ">"] => {
                Some(Array { name, element: element.join(""), access, functions: name })
            }
            _ => return Err(problem(path, format!("`{}` is no array, so it cannot be in pieces", words.concat()))),
        };
        arrays.push(match (array, pieces) {
            (Some(array), Pieces::Of(earlier)) => {
                let same = arrays.get(*earlier).and_then(Option::as_ref);
                let alike = same.filter(|same| (&same.element, same.access) == (&array.element, array.access));
                let Some(same) = alike else {
                    let text =
                        format!("`{}` is bound to what binding {earlier} is, and declared in another way", array.name);
                    return Err(problem(path, text));
                };
                Some(Array { functions: same.name, ..array })
            }
            (array, _) => array,
        });
    }
    let given: HashSet<&str> = tokens.iter().map(|token| token.text.as_str()).collect();
    let (mut output, mut at) = (String::new(), 0);
    for Declaration { range, rest, binding, .. } in &declarations {
        output += &accessed(path, &tokens[at..range.start], &arrays)?;
        let first: usize = bindings.iter().take(*binding).map(Pieces::count).sum();
        match (bindings.get(*binding), arrays.get(*binding).and_then(Option::as_ref)) {
            (Some(pieces @ (Pieces::From(_) | Pieces::Images(..) | Pieces::Beside(_))), Some(array)) => {
                let declared = array.declared(first, pieces);
                if let Some(taken) =
                    tokenise(&declared).iter().find(|token| array.gives(&token.text) && given.contains(&token.text[..]))
                {
                    return Err(problem(
                        path,
                        format!("`{}` cannot be in pieces: the name `{}` is taken", array.name, taken.text),
                    ));
                }
                output += &declared;
            }
            (Some(Pieces::Of(_)), _) => {}
            _ => {
                let _ = write!(output, "@group(0) @binding({first})");
                output.extend(tokens[*rest..range.end].iter().map(|token| token.text.as_str()));
            }
        }
        at = range.end;
    }
    Ok(output + &accessed(path, &tokens[at..], &arrays)?)
}

/// The declarations of bindings, in the order of the text.
pub(super) fn declarations(tokens: &[Token]) -> Vec<Declaration<'_>> {
    let starts = (0..tokens.len()).filter(|&at| tokens[at].text == "@");
    starts
        .filter_map(|start| {
            let end = (start..tokens.len()).find(|&at| tokens[at].text == ";")?;
            let code: Vec<usize> = (start..end).filter(|&at| tokens[at].is_code()).collect();
            let words: Vec<&str> = code.iter().map(|&at| tokens[at].text.as_str()).collect();
            match &words[..] {
                ["@", "group", "(", "0", ")", "@", "binding", "(", binding, ")", rest @ ..] => Some(Declaration {
                    range: start..end + 1,
                    rest: code[9] + 1,
                    binding: binding.parse().ok()?,
                    words: rest.to_vec(),
                }),
                _ => None,
            }
        })
        .collect()
}

impl Array<'_> {
    /// Whether this is one of the names that [`Array::declared`] gives.
    fn gives(&self, name: &str) -> bool {
        name.strip_suffix(self.name).is_some_and(|prefix| ["load_", "store_"].contains(&prefix))
            || name.strip_prefix(self.name).is_some_and(|suffix| suffix.starts_with('_'))
    }

    /// The pieces from binding `first` on, and the functions that choose among them.
    fn declared(&self, first: usize, pieces: &Pieces) -> String {
        let Self { name, element, access, .. } = self;
        let declarations = (0..pieces.count()).map(|index| {
            format!("@group(0) @binding({}) var<storage, {access}> {name}_{index}: array<{element}>;\n", first + index)
        });
        let chosen = |statement: &dyn Fn(String) -> String| {
            let branch = |(condition, place): (Option<String>, String)| {
                format!("{}{{ {} }}", condition.map_or(String::new(), |it| format!("if {it} ")), statement(place))
            };
            pieces.choices(name).into_iter().map(branch).collect::<Vec<_>>().join(" else ")
        };
        let load = chosen(&|place| format!("value = {place};"));
        let store = chosen(&|place| format!("{place} = value;"));
        let mut declared: String = declarations.collect();
        let _ =
            write!(declared, "fn load_{name}(i: u32) -> {element} {{ var value: {element}; {load} return value; }}");
        if *access == "read_write" {
            let _ = write!(declared, "\nfn store_{name}(i: u32, value: {element}) {{ {store} }}");
        }
        declared
    }
}

/// The text of these tokens, in which accesses of arrays that are in pieces are calls.
fn accessed(path: &str, tokens: &[Token], arrays: &[Option<Array<'_>>]) -> Result<String> {
    let (mut output, mut at) = (String::new(), 0);
    while let Some(token) = tokens.get(at) {
        let is_name = token.kind == Kind::Word && at.checked_sub(1).is_none_or(|before| tokens[before].text != ".");
        let Some(array) = arrays.iter().flatten().find(|array| is_name && array.name == token.text) else {
            output += &token.text;
            at += 1;
            continue;
        };
        let brackets = next_code(tokens, at + 1).filter(|&open| tokens[open].text == "[");
        let Some((open, close)) = brackets.and_then(|open| Some((open, matching(tokens, open)?))) else {
            let text = format!(
                "`{0}` is in pieces, so nothing can be done with it but to index it, as in `{0}[i]`",
                array.name
            );
            return Err(problem(path, text));
        };
        if is_pointed_at(tokens, at) {
            let text = format!("`{0}` is in pieces, so there can be no pointer into it, as in `&{0}[i]`", array.name);
            return Err(problem(path, text));
        }
        let index = accessed(path, &tokens[open + 1..close], arrays)?;
        let name = array.functions;
        at = close + 1;
        let Some((operator, value)) = assignment(tokens, at) else {
            let _ = write!(output, "load_{name}({index})");
            continue;
        };
        at = (value..tokens.len()).find(|&at| tokens[at].text == ";").unwrap_or(tokens.len());
        let value = accessed(path, &tokens[value..at], arrays)?;
        let value = value.trim();
        let _ = match operator {
            Some(operator) => write!(output, "store_{name}({index}, load_{name}({index}) {operator} ({value}))"),
            None => write!(output, "store_{name}({index}, {value})"),
        };
    }
    Ok(output)
}

/// Whether a pointer is taken to what begins at `at`: there is a `&` before it, and no operand before that.
fn is_pointed_at(tokens: &[Token], at: usize) -> bool {
    let mut before = tokens[..at].iter().rev().filter(|token| token.is_code()).map(|token| token.text.as_str());
    before.next() == Some("&") && before.next().is_some_and(|operand| ["(", ",", "="].contains(&operand))
}

/// For the assignment whose left-hand side ends before `at`: its operator, if it computes, and where its right-hand side begins.
fn assignment(tokens: &[Token], at: usize) -> Option<(Option<&str>, usize)> {
    let sign = next_code(tokens, at)?;
    let is_equals = |at: usize| tokens.get(at).is_some_and(|token| token.text == "=");
    match tokens[sign].text.as_str() {
        "=" if !is_equals(sign + 1) => Some((None, sign + 1)),
        operator @ ("+" | "-" | "*" | "/" | "%" | "&" | "|" | "^") if is_equals(sign + 1) => {
            Some((Some(operator), sign + 2))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KERNEL: &str = "struct Params { x: u32 }\n\n\
        @group(0) @binding(0) var<storage, read> x: array<vec4<f32>>; // [count]\n\
        @group(0) @binding(1) var<storage, read_write> y: array<f32>; // [count]\n\
        @group(0) @binding(2) var<uniform> params: Params;\n\n\
        fn f(i: u32) { y[i + u32(y[0])] += x[params.x - 1u].x * x[i][2]; if y[i] == 1.0 { y[i] = y[x_1(i)] - 1.0; } }\n";

    fn from(places: &[u64]) -> Pieces {
        Pieces::From(places.to_vec())
    }

    #[test]
    fn what_is_whole_stays_as_it_is() {
        assert_eq!(in_pieces("k", KERNEL, &[from(&[]), from(&[])]).unwrap(), KERNEL);
    }

    #[test]
    fn declarations_become_several_and_accesses_calls() {
        let text = in_pieces("k", KERNEL, &[from(&[]), from(&[64, 128])]).unwrap();
        let expected = "struct Params { x: u32 }\n\n\
            @group(0) @binding(0) var<storage, read> x: array<vec4<f32>>; // [count]\n\
            @group(0) @binding(1) var<storage, read_write> y_0: array<f32>;\n\
            @group(0) @binding(2) var<storage, read_write> y_1: array<f32>;\n\
            @group(0) @binding(3) var<storage, read_write> y_2: array<f32>;\n\
            fn load_y(i: u32) -> f32 { var value: f32; if i < 64u { value = y_0[i - 0u]; } \
            else if i < 128u { value = y_1[i - 64u]; } else { value = y_2[i - 128u]; } return value; }\n\
            fn store_y(i: u32, value: f32) { if i < 64u { y_0[i - 0u] = value; } \
            else if i < 128u { y_1[i - 64u] = value; } else { y_2[i - 128u] = value; } } // [count]\n\
            @group(0) @binding(4) var<uniform> params: Params;\n\n\
            fn f(i: u32) { store_y(i + u32(load_y(0)), load_y(i + u32(load_y(0))) + (x[params.x - 1u].x * x[i][2])); \
            if load_y(i) == 1.0 { store_y(i, load_y(x_1(i)) - 1.0); } }\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn what_is_bound_twice_has_its_pieces_once() {
        let text = "@group(0) @binding(0) var<storage, read> a: array<f32>;\n\
            @group(0) @binding(1) var<storage, read> b: array<f32>;\n\
            @group(0) @binding(2) var<storage, read> c: array<u32>;\n\
            fn f() -> f32 { return a[1u] + b[2u] + f32(c[3u]); }\n";
        let cut = in_pieces("k", text, &[from(&[64]), Pieces::Of(0), from(&[])]).unwrap();
        assert!(cut.contains("load_a(1u) + load_a(2u) + f32(c[3u])"), "{cut}");
        assert!(cut.contains("@binding(2) var<storage, read> c: array<u32>") && !cut.contains("@binding(3)"), "{cut}");
        let message = in_pieces("k", text, &[from(&[64]), from(&[]), Pieces::Of(0)]).unwrap_err().to_string();
        assert_eq!(message, "kernel `k`: `c` is bound to what binding 0 is, and declared in another way");
    }

    #[test]
    fn images_side_by_side_are_found_by_their_channels() {
        let beside = |first_extents| {
            let beside = Beside { channels: [2, 3], extents: [4, 5], first_extents };
            in_pieces("k", KERNEL, &[from(&[]), Pieces::Beside(beside)]).unwrap()
        };
        let expected = "@group(0) @binding(1) var<storage, read_write> y_0: array<f32>;\n\
            @group(0) @binding(2) var<storage, read_write> y_1: array<f32>;\n\
            fn load_y(i: u32) -> f32 { var value: f32; if i % 5u < 2u \
            { value = y_0[(i / 5u + i / 5u / 5u * 2u + i / 5u / 20u * 35u + 15u) * 2u + i % 5u]; } \
            else { value = y_1[i / 5u * 3u + i % 5u - 2u]; } return value; }\n";
        let text = beside([9, 7]);
        assert!(text.contains(expected) && text.contains("@binding(3) var<uniform>"), "{text}");
        let expected = "fn store_y(i: u32, value: f32) { if i % 5u < 2u { y_0[(i / 5u + 0u) * 2u + i % 5u] = value; } \
            else { y_1[i / 5u * 3u + i % 5u - 2u] = value; } }";
        let text = beside([4, 5]);
        assert!(text.contains(expected), "{text}");
    }

    #[test]
    fn what_cannot_be_in_pieces_is_refused() {
        for (text, message) in [
            (
                "y: array<f32>; fn f() { g(&y); }",
                "`y` is in pieces, so nothing can be done with it but to index it, as in `y[i]`",
            ),
            (
                "y: array<f32>; fn f() -> u32 { return arrayLength(&y); }",
                "`y` is in pieces, so nothing can be done with it but to index it, as in `y[i]`",
            ),
            (
                "y: array<f32>; fn f() { coopLoad<A>(&y[0], 8u); }",
                "`y` is in pieces, so there can be no pointer into it, as in `&y[i]`",
            ),
            ("y: array<f32>; fn f() { let y_1 = y[0]; }", "`y` cannot be in pieces: the name `y_1` is taken"),
            ("y: array<f32>; fn load_y() {}", "`y` cannot be in pieces: the name `load_y` is taken"),
            ("y: Struct;", "`var<storage,read>y:Struct` is no array, so it cannot be in pieces"),
        ] {
            let text = format!("@group(0) @binding(0) var<storage, read> {text}");
            let found = in_pieces("k", &text, &[from(&[64])]).unwrap_err().to_string();
            assert_eq!(found, format!("kernel `k`: {message}"));
        }
    }
}
