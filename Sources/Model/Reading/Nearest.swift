/// What to write instead of an unknown word: the nearest candidate, or all of them where none is near.
func suggestion(for word: String, in candidates: [String]) -> String {
  nearest(to: word, in: candidates).map { "did you mean \($0)?" } ?? "known are \(candidates.joined(separator: ", "))"
}

/// The candidate that a misspelt word was most likely meant to be, if one is close enough: at most a third of its
/// letters wrong. Case counts as no difference.
public func nearest(to word: String, in candidates: [String]) -> String? {
  let limit = max(1, word.utf8.count / 3)
  guard word.utf8.count <= 64 else { return nil }
  var best: (distance: Int, candidate: String)?
  for candidate in candidates {
    let distance = editDistance(word.lowercased(), candidate.lowercased())
    if distance <= limit, distance < best?.distance ?? .max { best = (distance, candidate) }
  }
  return best?.candidate
}

/// The number of letters to insert, remove, replace or swap with their neighbour that turns one word into the other.
func editDistance(_ a: String, _ b: String) -> Int {
  let a = Array(a.utf8)
  let b = Array(b.utf8)
  var beforePrevious = [Int](repeating: 0, count: b.count + 1)
  var previous = Array(0...b.count)
  for i in a.indices {
    var current = [Int](repeating: i + 1, count: b.count + 1)
    for j in b.indices {
      let replace = previous[j] + (a[i] == b[j] ? 0 : 1)
      current[j + 1] = min(replace, previous[j + 1] + 1, current[j] + 1)
      if i > 0, j > 0, a[i] == b[j - 1], a[i - 1] == b[j] {
        current[j + 1] = min(current[j + 1], beforePrevious[j - 1] + 1)
      }
    }
    (beforePrevious, previous) = (previous, current)
  }
  return previous[b.count]
}
