#compdef volchainctl
# SPDX-License-Identifier: MIT
# zsh completion for volchainctl(1), which computes it itself.

local -a candidates
candidates=("${(@f)$(${words[1]} complete -- "${(@Q)words[2,CURRENT]}" 2>/dev/null)}")
if [[ ${candidates[1]} == :files ]]; then
    compset -P '--*='
    _files
    return
fi
compadd -S '' -- ${(M)candidates:#*=}
compadd -- ${candidates:#(*=|)}
