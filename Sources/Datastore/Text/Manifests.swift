import Model

/// The objects in the text of one manifest, which is JSON where the name of the file ends with `.json`, else YAML. Throws
/// where it is neither; what is wrong with an object is told with the object.
public func readManifests(_ bytes: [UInt8], file: String) throws(ManifestError) -> ManifestContents {
  try ManifestText.contents(bytes, file: file)
}
