// The truncation function of soft truncation between -sqrt 2 and sqrt 2: s psi(v / s) = v - v^3 / (6 s^2).
// `sixth` is -1 / (6 s^2). Needs DEVICE.
template <class T> DEVICE T psi(T v, T sixth) { return v + v * v * v * sixth; }
