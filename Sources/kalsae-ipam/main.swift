import Glibc

exit(IPAMPlugin.run())
