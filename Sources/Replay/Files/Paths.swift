import Glibc

// All calls into the C library's file system are here.

func fileExists(_ path: String) -> Bool { unsafe access(path, F_OK) == 0 }

func isRegularFile(_ path: String) -> Bool {
  var status = stat()
  return unsafe stat(path, &status) == 0 && status.st_mode & S_IFMT == S_IFREG
}

func isDirectory(_ path: String) -> Bool {
  var status = stat()
  return unsafe stat(path, &status) == 0 && status.st_mode & S_IFMT == S_IFDIR
}

func makeDirectory(_ path: String) throws(ReplayError) {
  guard !isDirectory(path), unsafe mkdir(path, 0o777) != 0 else { return }
  let code = errno
  let text = unsafe String(cString: strerror(code))
  throw ReplayError(code == EACCES ? .permission : .io, "\(path): cannot create the directory: \(text)")
}
