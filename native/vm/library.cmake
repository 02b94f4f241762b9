# What other projects get by `cmake --install build`: libbpftime_vm.so and .a, the headers, a
# pkg-config file. docs/vm/library.md is their manual.
include(GNUInstallDirs)

set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/../package.json)
file(READ ${CMAKE_SOURCE_DIR}/../package.json package_json)
string(JSON vm_version GET ${package_json} version)
# Until 1.0 each minor version may change the interface: the soname has both numbers.
string(REGEX MATCH "^[0-9]+\\.[0-9]+" vm_soversion ${vm_version})

add_library(bpftime_vm_shared SHARED $<TARGET_OBJECTS:bpftime_vm>)
set(vm_exports ${CMAKE_CURRENT_SOURCE_DIR}/exports.map)
# defs: an undefined symbol is an error here and not at its user's.
target_link_options(bpftime_vm_shared PRIVATE
  -Wl,--version-script=${vm_exports} -Wl,-z,defs -Wl,-z,relro,-z,now)
set_target_properties(bpftime_vm_shared PROPERTIES
  OUTPUT_NAME bpftime_vm VERSION ${vm_version} SOVERSION ${vm_soversion}
  LINK_DEPENDS ${vm_exports} LINKER_LANGUAGE CXX)

# Relative to itself: the prefix is known only when it is installed, and may be moved.
file(RELATIVE_PATH vm_prefix_from_pc /p/${CMAKE_INSTALL_LIBDIR}/pkgconfig /p)
string(REGEX REPLACE "/$" "" vm_prefix_from_pc ${vm_prefix_from_pc})
configure_file(bpftime_vm.pc.in bpftime_vm.pc @ONLY)
install(TARGETS bpftime_vm bpftime_vm_shared)
install(DIRECTORY include/bpftime DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/bpftime_vm.pc
  DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
install(FILES ${CMAKE_SOURCE_DIR}/../docs/bpftime_vm.3 DESTINATION ${CMAKE_INSTALL_MANDIR}/man3)
